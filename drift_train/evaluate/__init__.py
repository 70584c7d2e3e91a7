"""Measures trained models on what they were not trained on: held-out prompts with a score, held-out seed pairs."""
