"""The embedded judge: a small classifier that ships with the package, its features, and how it is trained."""

from drift_data.judge.local.judge import LocalJudge

__all__ = ["LocalJudge"]
