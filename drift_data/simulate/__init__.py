"""Simulated users: makes chat logs whose true satisfaction is known, from stated probabilities."""

from drift_data.simulate.options import SimulateOptions
from drift_data.simulate.stage import simulate

__all__ = ["SimulateOptions", "simulate"]
