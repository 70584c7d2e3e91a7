"""A judge that says what it is told to say, and a workspace of a few chats for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from drift_data.judge.base import JUDGED_ROWS, JudgedBatch, UnlabelledTurn, list_feedback_keys
from drift_data.judge.rubric import load_rubric
from drift_data.schema import CONVERSATIONS, LABEL_ROWS
from drift_data.workspace import Workspace

CHATS = {
    "a": [
        ("user", "q"),
        ("assistant", "r"),
        ("user", "That's not right."),
        ("assistant", "s"),
        ("user", "Thanks!"),
    ],
    "b": [("user", "q"), ("assistant", "r")],
    "c": [
        ("assistant", "Hi"),
        ("user", "q"),
        ("user", "and?"),
        ("assistant", "r"),
        ("user", "next question"),
    ],
}


def make_workspace(path, chats=CHATS, labels=()):
    workspace = Workspace(path)
    rows = [
        {"conversation_id": i, "source": "t", "messages": [{"role": r, "content": c} for r, c in chat]}
        for i, chat in chats.items()
    ]

    def convert(build):
        build["conversations"].table(CONVERSATIONS).write_rows(rows)
        if labels:
            build["labels/carried"].table(LABEL_ROWS).write_rows(labels)

    outputs = ["conversations", *(["labels/carried"] if labels else [])]
    workspace.run("convert", outputs, convert, options={"chats": list(chats)})
    return workspace


def row(conversation, turn, **more):
    values = {
        "label": None,
        "sat_score": 0.0,
        "dsat_score": 0.0,
        "items": [],
        "judge": "test:x",
        "rubric": "r",
    }
    return {
        "conversation_id": conversation,
        "turn": turn,
        "reason": None,
        "evidence": None,
        "refusal": None,
        "correct_refusal": None,
    } | (values | more)


class ScriptedJudge:
    """Gives each turn the scores it is told; drops what it is told."""

    name = "scripted:1"
    inputs: Sequence[str] = ()
    options: Mapping[str, Any] = {"prompt": 1}
    rubric = load_rubric()

    def __init__(self, scores, drop=(), twist=lambda rows: rows, ahead=1):
        self.scores, self.drop, self.twist, self.ahead, self.asked = scores, drop, twist, ahead, 0

    def judge(self, conversations):
        waiting = []
        for batch in conversations:
            waiting.append(batch)
            if len(waiting) >= self.ahead:
                yield self._answer(waiting.pop(0))
        while waiting:
            yield self._answer(waiting.pop(0))

    def _answer(self, batch):
        keys = list_feedback_keys(batch)
        self.asked += len(keys)
        rows = [
            row(*key, sat_score=self.scores.get(key, (0, 0))[0], dsat_score=self.scores.get(key, (0, 0))[1])
            for key in keys
            if key not in self.drop
        ]
        left_out = [
            UnlabelledTurn(*key, reason="no_answer", detail="why") for key in keys if key in self.drop
        ]
        return JudgedBatch(pa.Table.from_pylist(self.twist(rows), JUDGED_ROWS), left_out)

    def report(self):
        return {"requests": self.asked}
