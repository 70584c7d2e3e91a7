"""Models and their tokenizers, in the order of use.

`find` says which files a model's name stands for, `load` reads and saves them, `render` turns messages into tokens,
`log_probs` scores given tokens, and `tiny` makes a small model on the spot.
"""
