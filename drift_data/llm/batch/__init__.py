"""Requests as files: the OpenAI Batch API, or anybody who answers the files, in rounds."""
