"""What holds for every chat, whatever its source and judge: its feedback turns, the orders chats are drawn in, safe text."""
