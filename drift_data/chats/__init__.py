"""Finds the feedback turns of chats, orders chats by hash, and makes their text safe to show, for every stage alike."""
