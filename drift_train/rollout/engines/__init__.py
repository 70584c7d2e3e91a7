"""Engines sample replies from a policy: vllm in a process of its own, a server, or transformers in this process."""
