"""Distillation from the annotations of the real conversations of `../shared/data/wildchat`.

Only two thirds are learned from and measured, out of fold; the held-out third (sha256 divisible by 3) is not looked
at. The figures are printed with `-s`; the bounds are alarms, not claims.
"""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from drift_data.distill.distill import distill
from drift_data.distill.options import DistillOptions
from drift_data.distill.result import Distilled
from drift_data.judge.decide import Thresholds
from drift_data.quality.options import ThresholdOptions
from drift_data.schema import CONVERSATIONS
from drift_data.workspace import Workspace

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "wildchat"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"{DATA} is not there: the real logs are not part of the project"
    ),
]


def test_annotations_teach_more_than_phrases_know(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    with (DATA / "conversations.jsonl").open(encoding="utf-8") as file:
        chats = [json.loads(line) for line in file]
    rows = [
        {
            "conversation_id": chat["conversation_hash"],
            "source": "wildchat",
            "messages": [{"role": m["role"], "content": m["content"]} for m in chat["conversation"]],
        }
        for chat in chats
    ]

    def build(outputs) -> None:
        outputs["conversations"].table(CONVERSATIONS).write_rows(rows)

    workspace.run("convert", ["conversations"], build, options={})
    gold = tmp_path / "seen.csv"
    with (DATA / "labels.csv").open(encoding="utf-8", newline="") as file, gold.open("w") as out:
        annotated = csv.DictReader(file)
        writer = csv.DictWriter(out, annotated.fieldnames or ())
        writer.writeheader()
        for row in annotated:
            if int(hashlib.sha256(row["conversation_hash"].encode()).hexdigest(), 16) % 3:
                writer.writerow(row)
    folder = workspace.path(
        distill(workspace, None, str(gold), "seen", Thresholds(), ThresholdOptions(), DistillOptions())
    )
    found = Distilled.model_validate_json((folder / "distill.json").read_bytes())
    distilled, phrases = found.views[0], found.views[-2]
    for view in (distilled, phrases):
        print(view.title, view.turns, view.conversations, view.true)
        for name in ("precision_DSAT", "recall_DSAT", "kappa_dsat", "kappa", "macro_f1"):
            print(f"  {name} {view.figures[name]}")
    for row in found.targets:
        print(row)
    for band in found.cascade:
        print(band.low, band.high, band.share_turns, band.share_requests, band.teacher.figures["kappa_dsat"])
    assert found.turns == 667
    values = {name: figure.value or 0 for name, figure in distilled.figures.items()}
    assert values["kappa_dsat"] > max(0.3, phrases.figures["kappa_dsat"].value or 0)
    assert values["precision_DSAT"] > 0.5
