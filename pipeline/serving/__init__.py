"""Prediction with stored prompts."""
