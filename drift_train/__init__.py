"""From preference pairs to a better model: rollouts, pairs, DPO, evaluation. Knows of `drift_data` only the tables."""
