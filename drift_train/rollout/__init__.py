"""Samples fresh replies from a policy: requests, engines, shards that survive a kill, and the recheck of log-probabilities."""
