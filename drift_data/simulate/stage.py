"""The stage `simulate`: writes demo logs with their true labels, chats for the base model, and held-out prompts."""

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
from drift_data.simulate.chats import Chat, draw_logged_chat, iter_pretrain_chats
from drift_data.simulate.options import SimulateOptions
from drift_data.simulate.world import ListTask, draw_random_task, word_request
from drift_data.workspace import Output, Workspace

PRETRAIN_ROWS = define_table(
    "simulated/pretrain",
    "a chat that the tiny base model learns from",
    [
        define_column(
            "phase", pa.string(), "phase of the training: first `clean`, then `noisy`", required=True
        ),
        define_column("messages", MESSAGES, "the chat", required=True),
    ],
)
HELDOUT_ROWS = define_table(
    "simulated/heldout",
    "a held-out prompt",
    [
        define_column("conversation_id", pa.string(), "the key", required=True),
        define_column("messages", MESSAGES, "the prompt", required=True),
    ],
)
SIMULATED_TABLES = ("simulated/logs", "simulated/truth", "simulated/pretrain", "simulated/heldout")
TRUTH_JUDGE = "simulated:truth"  # stands in the column `judge` of the true labels
TRUTH_RUBRIC = "simulated"  # stands in the column `rubric` of the true labels
_TRUE_STRENGTH = 8  # strength of every item in the true labels, of 1 to 10
_BATCH_CHATS = 1_000  # chats that are written at once
# The logged assistants: name, and how much their chance to get a dimension right differs from `quality`.
_ASSISTANTS = (("sim-small", -0.05), ("sim-large", 0.05))


def simulate(workspace: Workspace, options: SimulateOptions) -> bool:
    """Write the tables of `SIMULATED_TABLES`, unless they are finished already.

    Args:
        workspace: gets the tables.
        options: size and character of the logs.

    Returns:
        False if the same tables were finished already.
    """

    def build(outputs: Mapping[str, Output]) -> None:
        held_out = _draw_held_out_tasks(options)
        funnel = _write_logs(outputs, options, held_out)
        for name in ("simulated/logs", "simulated/truth"):
            outputs[name].results = dict(funnel)
        pretrain = outputs["simulated/pretrain"].table(PRETRAIN_ROWS)
        rng = Random(f"pretrain {options.seed}")
        chats = iter_pretrain_chats(options.pretrain, frozenset(held_out), rng)
        total = options.pretrain.clean + options.pretrain.noisy
        rows = []
        for phase, messages in tqdm(
            chats, total=total, desc="chats to learn from", unit="chat", mininterval=0.5
        ):
            rows.append({"phase": phase, "messages": messages})
            if len(rows) == _BATCH_CHATS:
                pretrain.write_rows(rows)
                rows = []
        pretrain.write_rows(rows)
        outputs["simulated/heldout"].table(HELDOUT_ROWS).write_rows(_make_held_out_prompts(options, held_out))

    return workspace.run("simulate", SIMULATED_TABLES, build, options=options.model_dump(mode="json"))


def _draw_held_out_tasks(options: SimulateOptions) -> list[ListTask]:
    """Draw the tasks that only held-out prompts ask for, each once."""
    rng = Random(f"held out {options.seed}")
    tasks: dict[ListTask, None] = {}
    while len(tasks) < options.heldout_tasks:
        tasks[draw_random_task(rng)] = None
    return list(tasks)


def _make_held_out_prompts(options: SimulateOptions, tasks: list[ListTask]) -> list[dict[str, object]]:
    """Return the rows of `simulated/heldout`; the tasks take turns."""
    rng = Random(f"held out prompts {options.seed}")
    rows: list[dict[str, object]] = []
    for number in range(options.heldout):
        messages = [{"role": "user", "content": word_request(tasks[number % len(tasks)], rng)}]
        rows.append({"conversation_id": f"heldout-{number:05d}", "messages": messages})
    return rows


def _write_logs(
    outputs: Mapping[str, Output], options: SimulateOptions, held_out: list[ListTask]
) -> Counter[str]:
    """Write the logs and their true labels; return the counts that a perfect judge would find."""
    logs, truth = (
        outputs["simulated/logs"].table(wildchat.WILDCHAT_SCHEMA),
        outputs["simulated/truth"].table(LABEL_ROWS),
    )
    rng, wildchat_rows, hidden = (
        Random(f"logs {options.seed}"),
        wildchat.WildChatRows(options.seed),
        frozenset(held_out),
    )
    seen: set[str] = set()
    funnel: Counter[str] = Counter()
    with tqdm(total=options.conversations, desc="simulated chats", unit="chat", mininterval=0.5) as progress:
        for first in range(0, options.conversations, _BATCH_CHATS):
            chats: list[Chat] = []
            models: list[str] = []
            while len(chats) < min(_BATCH_CHATS, options.conversations - first):
                model, better = rng.choice(_ASSISTANTS)
                quality = min(1.0, max(0.0, options.quality + better))
                chat = draw_logged_chat(quality, options.mends, options.users, hidden, rng)
                text = "\0".join(message["content"] for message in chat.messages)
                if text not in seen:  # `convert` would drop an exact repeat
                    seen.add(text)
                    chats.append(chat)
                    models.append(model)
            contents = pa.array([message["content"] for chat in chats for message in chat.messages])
            lengths = np.array([len(chat.messages) for chat in chats])
            batch = wildchat_rows.make_batch(first, contents, lengths, pa.array(models))
            logs.write(batch)
            ids = batch.column("conversation_hash").to_pylist()
            truth.write_rows(
                [row for key, chat in zip(ids, chats, strict=True) for row in _make_label_rows(key, chat)]
            )
            for chat in chats:
                _count_turns(chat, funnel)
            progress.update(len(chats))
    return funnel


def _make_label_rows(key: str, chat: Chat) -> list[dict[str, Any]]:
    """Return the true label of each feedback turn of a chat, schema `LABEL_ROWS`."""
    return [
        make_label_row(
            key,
            verdict.turn,
            verdict.label,
            sat_score=float(_TRUE_STRENGTH * (verdict.label == SAT)),
            dsat_score=float(_TRUE_STRENGTH * (verdict.label == DSAT)),
            items=[(verdict.item, verdict.label, _TRUE_STRENGTH)] if verdict.item else [],
            reason=verdict.reason,
            evidence=chat.messages[verdict.turn]["content"],
            refusal=False,
            judge=TRUTH_JUDGE,
            rubric=TRUTH_RUBRIC,
        )
        for verdict in chat.verdicts
    ]


def _count_turns(chat: Chat, funnel: Counter[str]) -> None:
    """Add the feedback turns, labels and DSAT→SAT pairs of a chat to the counts."""
    labels = [verdict.label for verdict in chat.verdicts]
    funnel["conversations"] += 1
    funnel["feedback_turns"] += len(labels)
    funnel.update(f"{label} turns" for label in labels)
    funnel.update(f"{label} conversations" for label in set(labels))
    after = {verdict.turn: verdict.label for verdict in chat.verdicts}
    pairs = sum(label == DSAT and after.get(turn + 2) == SAT for turn, label in after.items())
    funnel["DSAT→SAT pairs"] += pairs
