"""Scores of a trained policy on held-out prompts. Knows nothing about how it was trained."""
