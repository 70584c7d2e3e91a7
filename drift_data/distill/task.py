"""What is to be distilled, and how: read once, at the beginning of the stage."""

from __future__ import annotations

from dataclasses import dataclass

from drift_data.calibrate.options import ThresholdOptions
from drift_data.distill.examples import Written
from drift_data.distill.options import DistillOptions
from drift_data.distill.teacher import Teacher
from drift_data.judge.label_rule import Thresholds
from drift_data.judge.local.model import Model
from drift_data.judge.rubric import Rubric


@dataclass(frozen=True)
class Assignment:
    """All that determines a distillation apart from the conversations."""

    name: str
    teacher: Teacher
    truth: Teacher | None  # labels to believe beside the teacher's
    written: Written | None
    other_items: tuple[str, ...]  # that the teacher names and the shipped rubric does not know
    thresholds: Thresholds
    choosing: ThresholdOptions
    options: DistillOptions
    rubric: Rubric
    shipped: Model
