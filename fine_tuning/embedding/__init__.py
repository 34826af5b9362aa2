"""Embedding models: fine-tuning, exporting, quantizing, evaluating."""
