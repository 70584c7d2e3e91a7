"""Simulated users: chat logs whose true satisfaction is known, made from stated probabilities."""
