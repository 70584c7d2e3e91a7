"""Candidates → preference pairs: what a method chooses, what is filtered out and why, rewards where samples are ranked."""
