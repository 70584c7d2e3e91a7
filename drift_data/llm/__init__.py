"""Asking language models: requests and answers, their store and their price, and three ways to send them.

The ways are `live/` (a server that answers at once), `batch/` (files of the Batch API) and `vllm.py` (the model in
this process). What is asked, and what an answer means, is the callers' business: the LLM judge, and rubric learning.
"""
