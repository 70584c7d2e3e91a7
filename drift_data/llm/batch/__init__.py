"""Asks by files: the OpenAI Batch API, or anybody who answers files in its format, in rounds."""
