"""Trains a classifier from a teacher's labels, and reports its quality and what it saves in requests and money."""
