"""Measures labels: against labelled turns (and chooses thresholds on the way), or against another judge's labels."""
