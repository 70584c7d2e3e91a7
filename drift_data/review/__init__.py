"""Lets people audit labels: a page in the browser shows judged turns, and the reviewer accepts or changes each label."""
