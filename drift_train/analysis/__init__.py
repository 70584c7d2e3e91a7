"""Measures what training does to a model: how its replies change, and how far it moves."""
