"""The prompts: one family of contexts, how they are quantized, and how they are stored."""
