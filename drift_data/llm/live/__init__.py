"""Requests to a server that answers at once: how many at a time, when to try again, what its errors mean."""
