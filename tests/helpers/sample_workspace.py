"""A small workspace of a whole run, made by hand, so that tests can compare numbers.

Six conversations with ten feedback turns, of which the judge labels nine; one run with a warm start and one
iteration of ten steps. The numbers that follow from it are beside what they are about.
"""

import json
from pathlib import Path

from drift_data import schema
from drift_data.workspace import Workspace

RUN = "demo-drift"
# id, model, language, label of each feedback turn (None: the judge gave no label), complaint or thanks
CHATS = [
    ("c1", "gpt-4", "English", ["DSAT", "SAT"]),
    ("c2", "gpt-4", "English", ["NEUTRAL"]),
    ("c3", "gpt-4", "French", ["DSAT"]),
    ("c4", "gpt-3.5", "English", ["DSAT", "DSAT", "NEUTRAL"]),
    ("c5", "gpt-3.5", "French", ["DSAT"]),
    ("c6", None, None, ["NEUTRAL", None]),
]
TRUTH = {("c3", 2): "NEUTRAL", ("c6", 2): "DSAT"}  # where the truth differs: DSAT precision 4/5, recall 4/5
ITEMS = {
    "DSAT": {"name": "Revision", "polarity": "DSAT", "strength": 6},
    "SAT": {"name": "Gratitude", "polarity": "SAT", "strength": 4},
}
WORDS = {
    "DSAT": "No, that is wrong. Say it again.",
    "SAT": "Thank you, perfect.",
    "NEUTRAL": "And what is next?",
}
GOLD = {"base": [0.5, 0.5, 1.0, 0.0], "iter0": [0.5, 1.0, 0.5, 0.5], "iter1": [1.0, 1.0, 0.5, 1.0]}
STEPS = 10
HEALTH = {  # of iter1: what M0 said and how far training moved it
    "replies": 4,
    "measured": 4,
    "kl_base": {"mean": 0.25, "stderr": 0.01, "n": 4},
    "kl_step": {"mean": 0.05, "stderr": 0.001, "n": 4},
    "tokens": {"mean": 2.0, "p10": 2.0, "p50": 2.0, "p90": 2.0},
    "finish_reasons": {"stop": 3, "length": 1},
    "distinct": {"corpus": {"1": 0.25, "2": 0.25, "3": None}, "reply": {"1": 1.0, "2": 0.9, "3": None}},
    "diversity": 0.125,
}


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def messages(labels: list[str | None], words: dict[str, str] = WORDS) -> list[dict[str, str]]:
    chat = [message("user", "Name three fruits."), message("assistant", "reply 0")]
    for number, label in enumerate(labels, 1):
        chat += [message("user", words[label or "NEUTRAL"]), message("assistant", f"reply {number}")]
    return chat


def feedback(words: dict[str, str] = WORDS) -> list[dict]:
    """One row a labelled feedback turn, with its conversation."""
    rows = []
    for name, _, _, labels in CHATS:
        chat = messages(labels, words)
        for number, label in enumerate(labels):
            rows.append({"conversation_id": name, "turn": 2 * number + 2, "label": label, "chat": chat})
    return rows


def build_data(workspace: Workspace, words: dict[str, str] = WORDS) -> None:
    """Conversations (2 raw rows dropped), labels of a judge and the truth, dsat 4, sat 1, seed 1."""

    def convert(build):
        out, truth = build["conversations"], build["labels/simulated"]
        out.rows_in = len(CHATS) + 2
        out.table(schema.CONVERSATIONS).write_rows(
            [
                {
                    "conversation_id": name,
                    "source": "simulated",
                    "model": model,
                    "language": language,
                    "messages": messages(labels, words),
                }
                for name, model, language, labels in CHATS
            ]
        )
        bad = [
            {"location": f"logs.parquet:{row}", "reason": reason}
            for row, reason in ((7, "empty"), (9, "duplicate"))
        ]
        out.drop([{"conversation_id": None, "excerpt": None, **row} for row in bad], schema.DROPPED_RAW)
        truth.table(schema.LABEL_ROWS).write_rows(
            [
                label_row(
                    row,
                    TRUTH.get((row["conversation_id"], row["turn"]), row["label"] or "NEUTRAL"),
                    "simulated:truth",
                )
                for row in feedback(words)
            ]
        )

    workspace.run("convert", ["conversations", "labels/simulated"], convert, options={"source": "simulated"})

    def label(build):
        out = build["labels/local"]
        out.rows_in = 10
        out.made_by = {"judge": "local:words"}
        out.table(schema.LABEL_ROWS).write_rows(
            [label_row(row, row["label"], "local:words") for row in feedback(words) if row["label"]]
        )
        out.drop(
            [{"conversation_id": "c6", "turn": 4, "reason": "unparsed answer", "detail": None}],
            schema.DROPPED,
        )

    workspace.run("label", ["labels/local"], label, options={"judge": "local"}, inputs=["conversations"])

    def mine(build):
        dsat = [
            row
            for row in feedback(words)
            if row["label"] == "DSAT" and (row["conversation_id"], row["turn"]) != ("c4", 2)
        ]
        build["dsat"].table(schema.DSAT_ROWS).write_rows(
            [{**example(row), "rejected": [row["chat"][row["turn"] - 1]]} for row in dsat]
        )
        build["dsat"].drop(
            [{"conversation_id": "c4", "turn": 2, "reason": "not the strongest", "detail": None}],
            schema.DROPPED,
        )
        build["dsat"].rows_in = 5
        sat = [row for row in feedback(words) if row["label"] == "SAT"]
        build["sat"].table(schema.SAT_ROWS).write_rows(
            [{**example(row), "chosen": [row["chat"][row["turn"] - 1]]} for row in sat]
        )
        chat = messages(CHATS[0][3], words)
        build["seed"].table(schema.SEED_ROWS).write_rows(
            [
                {
                    "conversation_id": "c1",
                    "turn": 2,
                    "split": "train",
                    "prompt": chat[:1],
                    "rejected": [chat[1]],
                    "feedback": chat[2]["content"],
                    "chosen": [chat[3]],
                }
            ]
        )

    workspace.run(
        "seed",
        ["dsat", "sat", "seed"],
        mine,
        options={"per_conversation": 1},
        inputs=["conversations", "labels/local"],
    )


def label_row(row: dict, label: str, judge: str) -> dict:
    return {
        "conversation_id": row["conversation_id"],
        "turn": row["turn"],
        "label": label,
        "sat_score": 4.0 if label == "SAT" else 0.0,
        "dsat_score": 6.0 if label == "DSAT" else 0.0,
        "items": [ITEMS[label]] if label in ITEMS else [],
        "refusal": False,
        "correct_refusal": None,
        "judge": judge,
        "rubric": "r1",
    }


def example(row: dict) -> dict:
    turn = row["turn"]
    return {
        "conversation_id": row["conversation_id"],
        "turn": turn,
        "split": "train",
        "prompt": row["chat"][: turn - 1],
        "feedback": row["chat"][turn]["content"],
        "items": ["Revision"],
        "reason": None,
    }


def metrics(iteration: int, steps: int = STEPS) -> list[dict]:
    """Loss falls from ln 2, the margin rises by 0.1 a step, chosen log-probs stay at -20."""
    return [
        {
            "step": step,
            "iteration": iteration,
            "method": "drift",
            "loss": 0.6931 - 0.01 * step,
            "rewards/chosen": 0.06 * step,
            "rewards/rejected": -0.04 * step,
            "rewards/margins": 0.1 * step,
            "rewards/accuracies": min(1.0, 0.5 + 0.05 * step),
            "logps/chosen": -20.0,
            "logps/rejected": -20.0 - step,
            "lengths/chosen": 12.0,
            "lengths/rejected": 10.0,
            "tokens_per_second": 1000.0,
            "peak_memory_bytes": 500_000_000,
        }
        for step in range(1, steps + 1)
    ]


def build_run(workspace: Workspace, run: str = RUN, rows: list[dict] | None = None) -> None:
    """iter0 (1 pair), iter1 (4 rollouts, 3 pairs, 1 dropped), evaluations of base, iter0 and iter1."""

    def pair(row: dict, policy: str) -> dict:
        return {
            "prompt": row["prompt"],
            "chosen": [message("assistant", "better reply")],
            "rejected": row["rejected"],
            "conversation_id": row["conversation_id"],
            "turn": row["turn"],
            "split": "train",
            "chosen_tokens": 12,
            "rejected_tokens": 10,
            "method": "drift",
            "policy": policy,
        }

    def step(iteration: int):
        folder = f"runs/{run}/iter{iteration}"
        names = [f"{folder}/pairs"] if iteration == 0 else [f"{folder}/rollouts", f"{folder}/pairs"]
        before = [f"runs/{run}/iter{iteration - 1}/model"] if iteration else []
        source = workspace.read("seed" if iteration == 0 else "dsat").to_pylist()

        def pairs(build):
            out = build[f"{folder}/pairs"]
            out.rows_in = len(source)
            out.results = {"mean_chosen_tokens": 12.0, "mean_rejected_tokens": 10.0}
            kept = source if iteration == 0 else source[:3]
            out.table(schema.PAIRS).write_rows(
                [pair(row, f"M{iteration - 1}" if iteration else "seed") for row in kept]
            )
            out.drop(
                [
                    {
                        "conversation_id": row["conversation_id"],
                        "turn": row["turn"],
                        "reason": "leaks guidance",
                        "detail": None,
                    }
                    for row in source[len(kept) :]
                ],
                schema.DROPPED,
            )
            if iteration:
                build[f"{folder}/rollouts"].made_by = {"engine": "transformers"}
                build[f"{folder}/rollouts"].table(schema.ROLLOUTS).write_rows(
                    [
                        {
                            "conversation_id": row["conversation_id"],
                            "turn": row["turn"],
                            "sample": 0,
                            "kind": "guided",
                            "messages": row["prompt"],
                            "completion": "better reply",
                            "token_ids": [1, 2],
                            "finish_reason": "stop",
                            "engine": "transformers",
                            "seed": 42,
                        }
                        for row in source
                    ]
                )

        workspace.run(
            "iter" if iteration else "warm", names, pairs, options={"run": run}, inputs=["seed", "dsat"]
        )

        def train(build):
            build[f"{folder}/model"].made_by = {
                "policy": before[0] if before else "tiny",
                "reference": before[0] if before else "tiny",
                "precision_saved": "float32",
            }
            build[f"{folder}/model"].results = {"steps": STEPS}
            (build[f"{folder}/model"].folder / "config.json").write_text("{}")
            lines = metrics(iteration) if rows is None else rows
            path = workspace.path(folder) / "metrics.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

        workspace.run(
            "iter" if iteration else "warm",
            [f"{folder}/model"],
            train,
            options={"method": "drift" if iteration else "seed", "iteration": iteration, "beta": 0.1},
            inputs=[f"{folder}/pairs", *before],
        )

    def health(build):
        out = build[f"runs/{run}/iter1/health"]
        out.results = HEALTH
        out.table(schema.HEALTH).write_rows(
            [
                {
                    "conversation_id": row["conversation_id"],
                    "turn": row["turn"],
                    "sample": 0,
                    "kind": "guided",
                    "tokens": 2,
                    "finish_reason": "stop",
                    "log_prob": -2.0,
                    "log_prob_base": -2.5,
                    "log_prob_after": -2.1,
                }
                for row in workspace.read("dsat").to_pylist()
            ]
        )

    step(0)
    step(1)
    folder = f"runs/{run}/iter1"
    names = [f"{folder}/rollouts", f"{folder}/pairs", f"{folder}/model"]
    workspace.run("iter", [f"{folder}/health"], health, options={"run": run}, inputs=names)
    for model, scores in GOLD.items():
        name = f"runs/{run}/{model}/eval"

        def evaluate(build, name=name, scores=scores):
            mean = sum(scores) / len(scores)
            build[name].results = {"gold": {"mean": mean, "stderr": 0.1, "n": len(scores)}}
            build[name].table(schema.EVALUATION).write_rows(
                [
                    {
                        "conversation_id": f"h{number}",
                        "sample": 0,
                        "measure": "gold",
                        "score": score,
                        "prompt": [message("user", "Name two cities.")],
                        "completion": "Rome, Oslo",
                        "tokens": 3,
                    }
                    for number, score in enumerate(scores)
                ]
            )

        workspace.run("eval", [name], evaluate, options={"run": run})


def sample(root: Path, *, run: bool = True, words: dict[str, str] = WORDS) -> Workspace:
    """The whole workspace below a folder; `words` replaces what the users say."""
    workspace = Workspace(root)
    build_data(workspace, words)
    if run:
        build_run(workspace)
    return workspace
