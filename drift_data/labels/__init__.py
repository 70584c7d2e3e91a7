"""Names label tables and the people who label, reads labels beside conversations, and chooses what a sample labels."""
