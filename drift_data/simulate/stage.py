"""The stage `simulate`: demo logs with their truth, what the base model learns from, and held-out prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from drift_data.schema import DSAT, LABEL_ROWS, MESSAGES, SAT, define_column, define_table, make_label_row
from drift_data.simulate import wildchat
from drift_data.simulate.chats import Chat, logged_chat, pretrain_chats
from drift_data.simulate.options import SimulateOptions
from drift_data.simulate.world import Task, random_task, request_text
from drift_data.workspace import Output, Workspace

PRETRAIN = define_table(
    "simulated/pretrain",
    "a chat that the tiny base model learns from",
    [
        define_column("phase", pa.string(), "of the training: `clean`, then `noisy`", required=True),
        define_column("messages", MESSAGES, "the chat", required=True),
    ],
)
HELDOUT = define_table(
    "simulated/heldout",
    "a held-out prompt",
    [
        define_column("conversation_id", pa.string(), "the key", required=True),
        define_column("messages", MESSAGES, "the prompt", required=True),
    ],
)
OUTPUTS = ("simulated/logs", "simulated/truth", "simulated/pretrain", "simulated/heldout")
JUDGE = "simulated:truth"
RUBRIC = "simulated"
_STRENGTH = 8
_BATCH = 1_000
# The logged assistants: name and how much better than `quality` they are in each dimension.
_MODELS = (("sim-small", -0.05), ("sim-large", 0.05))


def simulate(workspace: Workspace, options: SimulateOptions) -> bool:
    """Make the folders of `OUTPUTS`, unless they are there already. Returns True when it ran."""

    def build(outputs: Mapping[str, Output]) -> None:
        held_out = _held_out_tasks(options)
        funnel = _write_logs(outputs, options, held_out)
        for name in ("simulated/logs", "simulated/truth"):
            outputs[name].results = dict(funnel)
        pretrain = outputs["simulated/pretrain"].table(PRETRAIN)
        rng = Random(f"pretrain {options.seed}")
        chats = pretrain_chats(options.pretrain, frozenset(held_out), rng)
        total = options.pretrain.clean + options.pretrain.noisy
        rows = []
        for phase, messages in tqdm(
            chats, total=total, desc="chats to learn from", unit="chat", mininterval=0.5
        ):
            rows.append({"phase": phase, "messages": messages})
            if len(rows) == _BATCH:
                pretrain.write_rows(rows)
                rows = []
        pretrain.write_rows(rows)
        outputs["simulated/heldout"].table(HELDOUT).write_rows(_held_out_prompts(options, held_out))

    return workspace.run("simulate", OUTPUTS, build, options=options.model_dump(mode="json"))


def _held_out_tasks(options: SimulateOptions) -> list[Task]:
    rng = Random(f"held out {options.seed}")
    tasks: dict[Task, None] = {}
    while len(tasks) < options.heldout_tasks:
        tasks[random_task(rng)] = None
    return list(tasks)


def _held_out_prompts(options: SimulateOptions, tasks: list[Task]) -> list[dict[str, object]]:
    rng = Random(f"held out prompts {options.seed}")
    rows: list[dict[str, object]] = []
    for number in range(options.heldout):
        messages = [{"role": "user", "content": request_text(tasks[number % len(tasks)], rng)}]
        rows.append({"conversation_id": f"heldout-{number:05d}", "messages": messages})
    return rows


def _write_logs(
    outputs: Mapping[str, Output], options: SimulateOptions, held_out: list[Task]
) -> Counter[str]:
    """Write logs and truth; return the funnel that a perfect judge would find."""
    logs, truth = (
        outputs["simulated/logs"].table(wildchat.SCHEMA),
        outputs["simulated/truth"].table(LABEL_ROWS),
    )
    rng, dresser, hidden = Random(f"logs {options.seed}"), wildchat.Dresser(options.seed), frozenset(held_out)
    seen: set[str] = set()
    funnel: Counter[str] = Counter()
    with tqdm(total=options.conversations, desc="simulated chats", unit="chat", mininterval=0.5) as progress:
        for first in range(0, options.conversations, _BATCH):
            chats: list[Chat] = []
            models: list[str] = []
            while len(chats) < min(_BATCH, options.conversations - first):
                model, better = rng.choice(_MODELS)
                quality = min(1.0, max(0.0, options.quality + better))
                chat = logged_chat(quality, options.mends, options.users, hidden, rng)
                text = "\0".join(message["content"] for message in chat.messages)
                if text not in seen:  # an exact repeat would be dropped when the logs are cleaned
                    seen.add(text)
                    chats.append(chat)
                    models.append(model)
            contents = pa.array([message["content"] for chat in chats for message in chat.messages])
            lengths = np.array([len(chat.messages) for chat in chats])
            batch = dresser.rows(first, contents, lengths, pa.array(models))
            logs.write(batch)
            ids = batch.column("conversation_hash").to_pylist()
            truth.write_rows(
                [row for key, chat in zip(ids, chats, strict=True) for row in _label_rows(key, chat)]
            )
            for chat in chats:
                _count(chat, funnel)
            progress.update(len(chats))
    return funnel


def _label_rows(key: str, chat: Chat) -> list[dict[str, Any]]:
    return [
        make_label_row(
            key,
            verdict.turn,
            verdict.label,
            sat_score=float(_STRENGTH * (verdict.label == SAT)),
            dsat_score=float(_STRENGTH * (verdict.label == DSAT)),
            items=[(verdict.item, verdict.label, _STRENGTH)] if verdict.item else [],
            reason=verdict.reason,
            evidence=chat.messages[verdict.turn]["content"],
            refusal=False,
            judge=JUDGE,
            rubric=RUBRIC,
        )
        for verdict in chat.verdicts
    ]


def _count(chat: Chat, funnel: Counter[str]) -> None:
    labels = [verdict.label for verdict in chat.verdicts]
    funnel["conversations"] += 1
    funnel["feedback_turns"] += len(labels)
    funnel.update(f"{label} turns" for label in labels)
    funnel.update(f"{label} conversations" for label in set(labels))
    after = {verdict.turn: verdict.label for verdict in chat.verdicts}
    pairs = sum(label == DSAT and after.get(turn + 2) == SAT for turn, label in after.items())
    funnel["DSAT→SAT pairs"] += pairs
