"""Models and their tokenizers: find one, load it, render messages to tokens, score tokens, make a tiny one."""
