"""How the embedded judge travels: people's own ratings in ASAP (English tasks) and RecLLMSim (Chinese).

The figures of docs/results/label-quality.md, printed with `-s`: 95 % intervals clustered by conversation. The bounds are alarms, not
claims. The score of a turn is held against a rating of the reply before it; in ASAP of the user's last turn.
"""

import ast
import gzip
import json
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, roc_auc_score

from drift_data.judge.local import LocalJudge
from drift_data.judge.options import Thresholds
from drift_data.schema import MESSAGES
from tests.helpers.real_chats import DATA

needs_asap = pytest.mark.skipif(not (DATA / "asap").is_dir(), reason=f"there is no {DATA}/asap")
needs_ratings = pytest.mark.skipif(not (DATA / "recllmsim").is_dir(), reason=f"there is no {DATA}/recllmsim")
pytestmark = pytest.mark.real
RESAMPLES = 300
Figures = dict[str, float]


def scores(conversations: list[list[dict[str, str]]]) -> dict[tuple[int, int], tuple[float, float]]:
    """Return (dsat_score, sat_score) by conversation and turn."""
    table = pa.table(
        {
            "conversation_id": [str(number) for number in range(len(conversations))],
            "messages": pa.array(conversations, MESSAGES),
        }
    )
    names = ("conversation_id", "turn", "dsat_score", "sat_score")
    return {
        (int(name), turn): (dsat, sat)
        for judged in LocalJudge().judge(table.to_batches(max_chunksize=1_000))
        for name, turn, dsat, sat in zip(*(judged.rows[each].to_pylist() for each in names), strict=True)
    }


def with_intervals(
    title: str, figures: Callable[[np.ndarray], Figures], conversations: np.ndarray
) -> Figures:
    """Print figures of chosen rows, and the percentiles of resampled conversations; return those of all rows."""
    names, of = np.unique(conversations, return_inverse=True)
    rows = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    generator = np.random.default_rng(0)
    drawn = (generator.integers(0, len(names), len(names)) for _ in range(RESAMPLES))
    samples = [figures(np.concatenate([rows[number] for number in each])) for each in drawn]
    found = figures(np.arange(len(conversations)))
    print(f"\n{title}: {len(conversations):,} turns of {len(names):,} conversations")
    for name, value in found.items():
        low, high = np.quantile([sample[name] for sample in samples], [0.025, 0.975])
        print(f"  {name} {value:.3f} ({low:.3f}–{high:.3f})")
    return found


def asap(name: str) -> Iterator[tuple[list[dict[str, str]], int, int]]:
    """Yield messages up to the user's last, its index, and the label of people: 0 dissatisfied, 1, 2 satisfied."""
    with gzip.open(DATA / "asap" / f"valid_{name}.txt.gz", "rt", encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            messages = []
            for turn in ast.literal_eval(fields[0]):
                user, _, system = turn.partition("|||")
                messages.append({"role": "user", "content": user})
                if system:
                    messages.append({"role": "assistant", "content": system})
            last = max(at for at, message in enumerate(messages) if message["role"] == "user")
            if last:
                yield messages[: last + 1], last, int(fields[-1])


@needs_asap
@pytest.mark.parametrize("name", ["mwoz", "sgd", "redial"])
def test_dissatisfied_users_of_task_dialogues_score_higher(name: str) -> None:
    chats = list(asap(name))
    said = scores([messages for messages, _, _ in chats])
    known = [
        (said[number, last], label) for number, (_, last, label) in enumerate(chats) if (number, last) in said
    ]
    dsat, sat = np.array([score for score, _ in known]).T
    label = np.array([label for _, label in known])
    limits = Thresholds()
    given = np.where(dsat >= limits.dsat, 0, np.where(sat >= limits.sat, 2, 1))

    def figures(rows: np.ndarray) -> Figures:
        return {
            "AUC of dissatisfied": roc_auc_score(label[rows] == 0, dsat[rows]),
            "weighted F1": f1_score(label[rows], given[rows], average="weighted"),
        }

    found = with_intervals(f"ASAP {name}", figures, np.arange(len(label)))  # a dialogue has one turn
    assert found["AUC of dissatisfied"] > 0.5 and found["weighted F1"] > 0.2


@needs_ratings
def test_replies_that_their_users_rate_lower_are_followed_by_higher_scores() -> None:
    chats, ratings = [], {}
    with gzip.open(DATA / "recllmsim" / "human_exp_V2.jsonl.gz", "rt", encoding="utf-8") as file:
        for number, line in enumerate(file):
            history = json.loads(line)["history"]
            chats.append([{"role": m["role"], "content": m["content"] or ""} for m in history])
            for turn, (reply, message) in enumerate(pairwise(history), 1):
                rating = reply.get("satisfaction")
                if (reply["role"], message["role"]) == ("assistant", "user") and rating is not None:
                    ratings[number, turn] = float(rating)
    said = scores(chats)
    keys = [key for key in ratings if key in said]
    rated = np.array([ratings[key] for key in keys])
    dsat = np.array([said[key][0] for key in keys])

    def figures(rows: np.ndarray) -> Figures:
        return {
            "AUC of ratings up to 2": roc_auc_score(rated[rows] <= 2, dsat[rows]),
            "AUC of ratings up to 3": roc_auc_score(rated[rows] <= 3, dsat[rows]),
            "rank correlation with the rating": spearmanr(dsat[rows], rated[rows])[0],
        }

    found = with_intervals("RecLLMSim", figures, np.array([number for number, _ in keys]))
    high = dsat >= Thresholds().dsat
    print(
        f"  mean rating {rated[high].mean():.2f} of {high.sum()} turns called DSAT, else {rated[~high].mean():.2f}"
    )
    assert found["AUC of ratings up to 2"] > 0.55 and found["rank correlation with the rating"] < 0
