"""Judges: whatever gives labels to feedback turns, and the rubric and the rule they share."""
