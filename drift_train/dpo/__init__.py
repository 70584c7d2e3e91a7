"""DPO with TRL on the pairs of an iteration: checks around it, checkpoints, metrics, several processes."""
