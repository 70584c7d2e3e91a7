"""Trains a classifier from a teacher's labels, and reports its quality and the requests and money that it saves."""
