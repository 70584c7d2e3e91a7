"""Defines `DistillTask`: what to distil, and how. The stage makes it once, when it begins."""

from __future__ import annotations

from dataclasses import dataclass

from drift_data.calibrate.options import ThresholdOptions
from drift_data.distill.examples import WrittenTurns
from drift_data.distill.options import DistillOptions
from drift_data.distill.teacher import Teacher
from drift_data.judge.local.model import Classifier
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import Rubric


@dataclass(frozen=True)
class DistillTask:
    """Everything that determines a distillation, apart from the conversations."""

    name: str  # name of the new classifier
    teacher: Teacher
    truth: (
        Teacher | None
    )  # labels to believe rather than the teacher's; the cascade is measured against them, too
    written: WrittenTurns | None  # our own turns to learn from beside the teacher's
    other_items: tuple[str, ...]  # items that the teacher names and the shipped rubric does not have
    thresholds: Thresholds  # thresholds of the recipe
    choosing: ThresholdOptions  # how the DSAT threshold is chosen
    options: DistillOptions
    rubric: Rubric  # rubric that ships with the toolkit
    shipped: Classifier  # classifier that ships with the toolkit; the report shows its labels as a baseline
