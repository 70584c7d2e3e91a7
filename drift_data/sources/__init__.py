"""One module a data set: raw files → chats or examples, with the labels it carries; nothing checked yet."""
