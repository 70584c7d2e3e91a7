"""SPUR's third phase, turn by turn: what an LLM says about each feedback turn, by the items of a rubric."""
