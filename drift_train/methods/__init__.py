"""DRIFT, SPIN and IterDPO by name: what each learns from, what it samples, and which reply it prefers.

Each method is a module with the functions of `base.Method`.
"""

from __future__ import annotations

from collections.abc import Mapping

from drift_train.methods import drift, iterdpo, spin
from drift_train.methods.base import Method
from drift_train.options import MethodName

METHODS: Mapping[MethodName, Method] = {"drift": drift, "spin": spin, "iterdpo": iterdpo}
