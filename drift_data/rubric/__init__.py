"""SPUR's first two phases: a rubric is learned from conversations of which it is known how they pleased."""
