"""Loqua: low-rank quantized prompts for vision-language models."""
