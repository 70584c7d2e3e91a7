"""A workspace that the loop can start from, and options that make it quick."""

from pathlib import Path

from drift_data.schema import DSAT_ROWS, SEED_ROWS
from drift_data.workspace import Workspace
from drift_train.methods.options import LoopOptions
from drift_train.options import RolloutOptions, TrainOptions
from tests.helpers.training_rows import dsat_row, seed_row, write_table

TRAIN = TrainOptions(
    learning_rate=5e-5, global_batch=4, per_device_batch=4, max_length=128, gradient_checkpointing=False
)
OPTIONS = LoopOptions(
    rollout=RolloutOptions(
        engine="transformers", max_prompt_tokens=100, max_new_tokens=24, examples=12, instruction="try again"
    ),
    train=TRAIN,
    warm=TRAIN.model_copy(update={"epochs": 2}),
)


def make_workspace(root: Path, seeds: int = 12) -> Workspace:
    workspace = Workspace(root)
    write_table(
        workspace, "dsat", DSAT_ROWS, [dsat_row(i, "test" if i % 7 == 6 else "train") for i in range(30)]
    )
    write_table(
        workspace, "seed", SEED_ROWS, [seed_row(i, "test" if i == 3 else "train") for i in range(seeds)]
    )
    return workspace
