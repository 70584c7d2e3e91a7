"""Analyses of finished runs: margins, exploration, diversity."""
