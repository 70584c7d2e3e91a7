"""The embedded judge: a small classifier that ships with the package, its features, and its training.

`make convert SOURCE=wildchat` and `make distill GOLD=labels.csv NAME=shipped-2` make `model.npz` with the recipe
`shipped.yaml`. `docs/guide/distill.md` has the commands, and `tests/real/test_distill.py` runs them.
"""

from drift_data.judge.local.judge import LocalJudge

__all__ = ["LocalJudge"]
