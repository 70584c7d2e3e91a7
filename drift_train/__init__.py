"""From preference pairs to a better model: rollouts, DPO, evaluation. Knows of `drift_data` only the tables."""
