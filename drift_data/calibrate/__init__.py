"""Measures labels against gold, for which it also chooses thresholds, or against another judge's labels."""
