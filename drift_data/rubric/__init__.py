"""SPUR phases 1 and 2: learn a rubric from conversations with a thumbs up or down."""
