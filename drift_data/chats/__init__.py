"""What holds for a chat whatever its source is and whoever labels it: in which orders chats are drawn and split."""
