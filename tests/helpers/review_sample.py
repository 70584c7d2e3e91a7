"""A small workspace to review: six labelled turns of four conversations, by two judges, beside their texts.

Thresholds are 5 and 5, so distances of the DSAT score from its threshold are: a2 4, a4 1, b2 0, c2 5, d2 5, d4 3.
The second judge differs at a4 and d2 and has no label for d4.
"""

import hashlib
from pathlib import Path

from drift_data.labels.reviewer import make_reviewer
from drift_data.review.session import FormAnswer, ReviewOptions, ReviewSession
from drift_data.schema import CONVERSATIONS
from drift_data.workspace import Workspace
from tests.helpers.quality_sample import RUBRIC, turn, write_labels

LANGUAGES = {"a": "English", "b": "French", "c": None, "d": "English"}
LABELS = {
    ("a", 2): "DSAT",
    ("a", 4): "NEUTRAL",
    ("b", 2): "DSAT",
    ("c", 2): "SAT",
    ("d", 2): "NEUTRAL",
    ("d", 4): "DSAT",
}
HASHED = sorted(
    LABELS, key=lambda key: hashlib.sha256(f"{key[0]}/{key[1]}".encode()).hexdigest()
)  # random order


def build_conversations(workspace: Workspace, texts: dict[tuple[str, int], str] | None = None) -> None:
    """Write the conversations; `texts` replaces messages by (conversation, index)."""
    said = texts or {}

    def build(outputs):
        rows = [
            {
                "conversation_id": name,
                "source": "test",
                "language": language,
                "messages": [
                    {
                        "role": ("user", "assistant")[at % 2],
                        "content": said.get((name, at), f"message {at} of {name}"),
                    }
                    for at in range(6)
                ],
            }
            for name, language in LANGUAGES.items()
        ]
        outputs["conversations"].table(CONVERSATIONS).write_rows(rows)

    options = {"texts": [[*key, text] for key, text in said.items()]}
    workspace.run("convert", ["conversations"], build, options=options)


def build_labels(workspace: Workspace) -> None:
    """Write labels/test and labels/other."""
    rows = [
        turn("a", 2, 0, 9, "Revision", "Style", evidence="MESSAGE 2\tof a", reason="said so"),
        turn("a", 4, 0, 4),
        turn("b", 2, 0, 5, "Style", refusal=True, correct_refusal=False),
        turn("c", 2, 8, 0, "Gratitude"),
        turn("d", 2, 0, 0),
        turn("d", 4, 0, 8, "Ignored"),
    ]
    write_labels(workspace, rows, unlabelled={("b", 4): "invalid_answer"})
    other = [
        turn("a", 2, 0, 9),
        turn("a", 4, 9, 0),
        turn("b", 2, 0, 9),
        turn("c", 2, 9, 0),
        turn("d", 2, 0, 9),
    ]
    write_labels(workspace, other, "labels/other")


def to_review(folder: Path, texts: dict[tuple[str, int], str] | None = None) -> Workspace:
    """Return the workspace below a folder."""
    workspace = Workspace(folder / "work")
    build_conversations(workspace, texts)
    build_labels(workspace)
    return workspace


def session(workspace: Workspace, name: str = "ann", **options) -> ReviewSession:
    """Begin a review of labels/test."""
    return ReviewSession(workspace, ReviewOptions("labels/test", make_reviewer(name), RUBRIC, **options))


def answer(session: ReviewSession, key: tuple[str, int], label: str, chosen, **more) -> FormAnswer:
    """Return what the page's form would say after a key: `label`, and what the page had ticked."""
    shown = session.load_turn(session.queue.find_number(*key), chosen)
    judged = shown.judged
    sided = {item["name"] for item in judged["items"] if item["polarity"] == judged["label"]}
    ticked = frozenset() if shown.hidden else frozenset(sided)
    given = {
        "key": key,
        "label": label,
        "items": ticked,
        "shown_items": ticked,
        "prefilled_label": "" if shown.hidden else judged["label"],
        "refusal": None,
        "correct_refusal": None,
        "judge_label": "" if shown.hidden else judged["label"],
        "text_hash": shown.text_hash,
        "blind": shown.hidden,
    }
    return FormAnswer(**{**given, **more})
