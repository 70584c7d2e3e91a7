"""The stage of `make seed`: turns labels into the examples that training reads, `dsat`, `sat` and `seed`."""
