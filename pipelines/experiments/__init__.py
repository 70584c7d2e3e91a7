"""Experiments that run the unchanged toolkit, and the control arms that their runs are compared with."""
