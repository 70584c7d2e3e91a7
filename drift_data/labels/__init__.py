"""Label tables: their names, reading them beside the conversations, sampling conversations, and people who label."""
