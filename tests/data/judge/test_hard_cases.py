"""Hard cases of our own (`tests/gold/hard_cases.yaml`): the traps of false dissatisfaction, and complaints without a bad word.

`tests/gold/answers.jsonl` is what a large language model answered to the scoring requests of these cases, without
having seen the labels; it is played back here through the checks and the decision rule. When the prompt changes in
substance, ask again: with DRIFT_GOLD_MODEL (and DRIFT_GOLD_BASE_URL, OPENAI_API_KEY) set, a model is asked live.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift_data.judge.label_rule import decide_label
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import load_rubric
from drift_data.judge.spur.exchange import WindowExchange
from drift_data.judge.spur.options import WindowOptions
from drift_data.judge.spur.prompt import ScoringPrompts
from drift_data.judge.spur.windows import cut_windows
from drift_data.llm.cost import Spending
from drift_data.llm.live.client import Client
from drift_data.llm.options import ClientOptions, ServerOptions
from drift_data.llm.request import Answer, Sampling
from drift_data.llm.store import Store
from tests.helpers.paths import GOLD

CASES: list[dict[str, Any]] = yaml.safe_load((GOLD / "hard_cases.yaml").read_text(encoding="utf-8"))
RUBRIC = load_rubric()
# What FACTS and the annotators name; each must have a case.
TRAPS = (
    "drafting",
    "templated series",
    "pasted sentiment",
    "thanks and a new task",
    "own mistake",
    "own new code",
)


def exchange(case: dict[str, Any], model: str = "test") -> WindowExchange:
    messages = [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(case["chat"])
    ]
    (window,) = cut_windows(messages, WindowOptions())
    assert set(window.turns) == set(case["labels"])
    return WindowExchange(
        window, ScoringPrompts(RUBRIC, WindowOptions()), RUBRIC, Sampling(model=model), tries=1
    )


def labels(answered: WindowExchange) -> dict[int, str]:
    found = {}
    for turn, answer in answered.answers.items():
        scores = dict.fromkeys(("SAT", "DSAT"), 0)
        for item in answer.items:
            scores[RUBRIC.polarities[item.name]] += item.strength
        names = [item.name for item in answer.items]
        found[turn] = decide_label(scores["SAT"], scores["DSAT"], names, Thresholds(), RUBRIC.change_items)
    return found


def test_every_known_trap_has_a_case() -> None:
    names = [case["trap"] for case in CASES]
    assert len(set(names)) == len(names)
    assert not [trap for trap in TRAPS if not any(trap in name for name in names)]
    assert {label for case in CASES for label in case["labels"].values()} == {"SAT", "DSAT", "NEUTRAL"}


def recorded() -> dict[str, str]:
    lines = (GOLD / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["trap"]: json.dumps(row["answer"]) for row in map(json.loads, lines)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["trap"])
def test_a_models_answer_to_a_hard_case_becomes_the_right_labels(case: dict[str, Any]) -> None:
    answered = exchange(case)
    answered.receive(Answer(recorded()[case["trap"]]))
    assert answered.unlabelled == {}
    assert labels(answered) == case["labels"]
    refusals = {turn: answer.refusal for turn, answer in answered.answers.items()}
    assert {turn: refusals[turn] for turn in case.get("refusal", {})} == case.get("refusal", {})


@pytest.mark.skipif("DRIFT_GOLD_MODEL" not in os.environ, reason="DRIFT_GOLD_MODEL names no model to ask")
def test_a_live_model_gets_nine_of_ten_hard_cases_right(tmp_path: Path) -> None:
    model, server = os.environ["DRIFT_GOLD_MODEL"], os.environ.get("DRIFT_GOLD_BASE_URL")
    asked = {case["trap"]: exchange(case, model) for case in CASES}
    with (
        Store(tmp_path / "judge.sqlite") as store,
        Client(store, Spending(), ServerOptions(base_url=server), ClientOptions()) as client,
    ):
        assert len(list(client.run(asked.values()))) == len(CASES)
    wrong = {case["trap"]: labels(asked[case["trap"]]) for case in CASES}
    wrong = {
        trap: got
        for trap, got in wrong.items()
        if got != next(c for c in CASES if c["trap"] == trap)["labels"]
    }
    print(wrong)
    assert len(wrong) <= len(CASES) / 10
