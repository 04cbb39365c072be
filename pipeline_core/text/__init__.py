"""Prompt text to conditioning: syntax, languages, tokenizers, encoders, chunks, weights."""
