"""Experiments on the whole toolkit, unchanged: what a run is compared with."""
