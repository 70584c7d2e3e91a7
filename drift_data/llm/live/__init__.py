"""Asks a server that answers at once: how many requests at a time, when to try again, what errors mean."""
