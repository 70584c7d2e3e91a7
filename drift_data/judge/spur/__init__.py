"""The LLM judge: SPUR's third phase (arXiv 2403.12388), by which a language model scores each feedback turn."""
