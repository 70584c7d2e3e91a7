"""The LLM judge: a language model scores each feedback turn, as in SPUR's third phase (arXiv 2403.12388)."""
