"""Label tables: their names, their rows beside the conversations, samples of them, and the people who make some."""
