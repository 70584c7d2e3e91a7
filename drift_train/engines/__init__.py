"""Engines sample replies from a policy: vllm in a process of its own, or transformers in this one."""
