"""The stage of `make seed`: labels → `dsat`, `sat` and `seed`."""
