"""Asking language models: requests, their store, their price, and three ways to send them. Knows no judging."""
