"""One module a data set: raw files → chats or examples (and labels the data set carries), nothing checked yet."""
