"""Rows for the training tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from drift_data.workspace import Workspace


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def write_table(workspace: Workspace, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    workspace.run(
        "seed", [name], lambda build: build[name].table(schema).write_rows(rows), options={"n": len(rows)}
    )


def dsat_row(i: int, split: str = "train") -> dict[str, Any]:
    return {
        "conversation_id": f"c{i}",
        "turn": 2,
        "split": split,
        "prompt": user(f"please list {i} fruits"),
        "rejected": assistant(f"blue fish {i}"),
        "feedback": "no that is wrong",
        "items": ["Negative_Feedback"],
        "reason": None,
    }


def seed_row(i: int, split: str = "train") -> dict[str, Any]:
    row = {key: value for key, value in dsat_row(i, split).items() if key not in ("items", "reason")}
    return {**row, "conversation_id": f"s{i}", "chosen": assistant(f"apple pear {i}")}


def sat_row(i: int, split: str = "train") -> dict[str, Any]:
    row = {key: value for key, value in dsat_row(i, split).items() if key != "rejected"}
    return {
        **row,
        "conversation_id": f"t{i}",
        "chosen": assistant(f"apple {i}"),
        "feedback": "thanks",
        "items": ["Gratitude"],
    }


def preference_row(i: int, feedback: str | None = None) -> dict[str, Any]:
    return {
        "conversation_id": f"u{i}",
        "split": "train",
        "prompt": user(f"list {i}"),
        "chosen": assistant("apple"),
        "rejected": assistant(f"blue {i}"),
        "score_chosen": None,
        "score_rejected": None,
        "feedback": feedback,
    }
