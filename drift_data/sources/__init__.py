"""Reads raw data sets, one module a data set: chats or ready examples, with the labels they carry, still unchecked."""
