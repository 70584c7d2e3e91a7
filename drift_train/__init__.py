"""From preference pairs to a better model: rollouts, DPO, evaluation. Knows only the tables of `drift_data`."""
