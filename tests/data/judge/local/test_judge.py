"""The embedded judge on hard cases, in our own words; how good it is on real logs is measured elsewhere."""

import pickle
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from drift_data.chats.turns import find_feedback_turns
from drift_data.judge.label_rule import decide_label
from drift_data.judge.local import LocalJudge
from drift_data.judge.local.cues import load_cues
from drift_data.judge.local.features import read_turns
from drift_data.judge.local.judge import explain_scores
from drift_data.judge.local.model import Prediction, load_classifier
from drift_data.judge.local.text import expand_cues, mark_searchable, may_hold
from drift_data.judge.local.trees import DEPTH, Trees
from drift_data.judge.options import Thresholds
from drift_data.schema import CONVERSATIONS, NEUTRAL
from drift_data.workspace import UserError

JUDGE = LocalJudge()
PLAIN = "Here is the text you asked for. It has three parts."
CODE = "Try this:\n```python\nprint(total)\n```"
REFUSAL = "I'm sorry, but I can't assist with that."


def batch_of(*chats):
    """Conversations of chats given as user, assistant, user, … texts."""
    rows = [
        {
            "conversation_id": f"c{at}",
            "source": "test",
            "messages": [
                {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(chat)
            ],
        }
        for at, chat in enumerate(chats)
    ]
    return pa.Table.from_pylist(rows, schema=CONVERSATIONS).combine_chunks().to_batches()[0]


def judged(*chats):
    """Label rows of such chats."""
    [answer] = JUDGE.judge([batch_of(*chats)])
    assert not answer.unlabelled
    return answer.rows.to_pylist()


def label(row):
    names = [item["name"] for item in row["items"]]
    return decide_label(row["sat_score"], row["dsat_score"], names, Thresholds())


def last_label(*chat):
    return label(judged(chat)[-1])


LONG = "Extract every name, place and date from the following report and list them in a table. "
CASES = {
    "the next payload of a templated series is neutral": (
        "NEUTRAL",
        [
            LONG + "Report: the bridge in Oslo opened in May.",
            PLAIN,
            LONG + "Report: Anna moved to Rome last June.",
        ],
    ),
    "the next number of a series is neutral": (
        "NEUTRAL",
        [
            "Write the outline of chapter 3 of my book on bees",
            PLAIN,
            "Write the outline of chapter 4 of my book on bees",
        ],
    ),
    "the same request word for word is dsat": ("DSAT", [LONG + "Report: a", PLAIN, LONG + "Report: a"]),
    "the same request with a word less is dsat": (
        "DSAT",
        [
            "Please write me a short poem about the sea at night",
            PLAIN,
            "write me a short poem about the sea at night",
        ],
    ),
    "insisting in other words after a refusal is dsat": (
        "DSAT",
        [
            "Tell me how the lock of my own door is opened",
            REFUSAL,
            "Tell me how the lock of my own door can be opened",
        ],
    ),
    "moving on after a refusal is neutral": ("NEUTRAL", ["Draw me a cat", REFUSAL, "What do cats eat?"]),
    "an error message after the assistant's code is dsat": (
        "DSAT",
        ["Sum the list", CODE, "NameError: name 'total' is not defined"],
    ),
    "an error brought along without code before is neutral": (
        "NEUTRAL",
        ["Hi", "Hello! How can I help?", "NameError: name 'total' is not defined, what does this mean?"],
    ),
    "thanks with a new task is sat": ("SAT", ["Write a title", PLAIN, "Thanks! Now write the introduction."]),
    "praise with a request to change is dsat": (
        "DSAT",
        ["Write a title", PLAIN, "I love it! But you forgot to mention the date."],
    ),
    "better now is sat": ("SAT", ["Write a title", PLAIN, "Much better, and the next chapter?"]),
    "continue is neutral": ("NEUTRAL", ["Tell a story", PLAIN, "continue", PLAIN, "continue"]),
    "a new request is neutral": ("NEUTRAL", ["Write a title", PLAIN, "Now translate it into French"]),
    "a complaint letter to translate is neutral": (
        "NEUTRAL",
        [
            "Hi",
            "Hello!",
            "Translate this letter into German: Dear Sir, the lamp I bought in your shop last week broke "
            "on the first evening, and nobody answers the phone. I expect my money back, because "
            "this is the third time in a year that such a thing happens to me with goods from your house. "
            "Your catalogue speaks of quality. I cannot see any. " * 3,
        ],
    ),
    "a short correction is dsat": ("DSAT", ["When?", PLAIN, "That's not right."]),
    "Chinese": ("DSAT", ["写一首诗", "春天来了。", "你没有按照我的要求写"]),
    "Chinese thanks": ("SAT", ["写一首诗", "春天来了。", "谢谢！"]),
    "Russian": ("DSAT", ["Исправь код", CODE, "всё равно не работает"]),
    "Spanish": ("DSAT", ["Haz una lista", PLAIN, "No es lo que pedí."]),
    "French": ("DSAT", ["Écris un titre", PLAIN, "Ça ne marche pas."]),
    "German": ("DSAT", ["Schreib einen Titel", PLAIN, "Das stimmt nicht!"]),
    "Portuguese": ("DSAT", ["Escreva um título", PLAIN, "Não foi isso que eu pedi"]),
    "Arabic": ("DSAT", ["اكتب عنوانا", PLAIN, "هذا خطأ"]),
    "Japanese thanks": ("SAT", ["題名を書いて", PLAIN, "ありがとうございます"]),
}


MISSED = {  # by the shipped classifier, which is made for the polite, long complaints of real logs
    "insisting in other words after a refusal is dsat",
    "the same request with a word less is dsat",
    "French",
    "German",
    "Arabic",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.xfail(strict=True, reason="the classifier does not see it"))
        if case in MISSED
        else case
        for case in CASES
    ],
)
def test_hard_case(case):
    wanted, chat = CASES[case]
    assert last_label(*chat) == wanted


def test_a_row_says_which_sign_how_strong_and_why():
    [row] = judged(["Write a title", PLAIN, "I love it! But that is wrong, you forgot to mention the date."])
    items = {item["polarity"]: item for item in row["items"]}
    assert items["SAT"]["name"] == "Praise" and row["sat_score"] == items["SAT"]["strength"]
    assert items["DSAT"]["name"] in JUDGE.report()["items"]
    assert items["DSAT"]["strength"] == round(row["dsat_score"])
    assert row["reason"] == "wording as in complaints: what it adds to the one before (+0.8)"
    assert row["evidence"].startswith("I love it!")
    assert row["judge"] == JUDGE.name and row["rubric"] == JUDGE.rubric.hash


def test_every_turn_that_is_likely_dsat_has_a_reason_in_words():
    rows = judged(
        *(chat for _, chat in CASES.values()), ["What is the capital?", PLAIN, "What is the capital?"]
    )
    told = [row for row in rows if row["dsat_score"] >= 2]
    assert len(told) > 10 and all(row["reason"] and "log-odds" not in row["reason"] for row in told)
    assert all(row["reason"] is None for row in rows if row["dsat_score"] < 2)
    assert told[-1]["reason"].startswith(
        "the very same message was sent before; nearly all its words are in the message before"
    )


def test_where_no_sign_stands_out_the_reason_says_so():
    turns, told = read_turns(batch_of(["Write", PLAIN, "Thanks"]), load_cues()), np.array([True])
    calm = Prediction(np.array([0.9]), {"said": np.array([-1.0])})
    assert explain_scores(turns, calm, told).to_list()[0].startswith("no single sign: ")


def test_a_conversation_gets_the_same_scores_alone_and_among_others():
    chats = [chat for _, chat in CASES.values()]
    together = {(row["conversation_id"], row["turn"]): row for row in judged(*chats)}
    for at, chat in enumerate(chats):
        for row in judged(chat):
            other = together[f"c{at}", row["turn"]]
            assert row["dsat_score"] == pytest.approx(other["dsat_score"], abs=2e-3)
            assert (row["items"], row["reason"]) == (other["items"], other["reason"])


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        (REFUSAL, True),
        ("As an AI language model, I cannot browse the internet.", True),
        ("很抱歉，我无法提供这些信息。", True),
        ("Извините, но я не могу помочь с этим.", True),
        ("Lo siento, pero no puedo ayudar con eso.", True),
        (PLAIN, False),
        ("I'm sorry for the mistake. Here is the corrected list.", False),
        (PLAIN * 20 + REFUSAL, False),
    ],
)
def test_refusals_are_seen_in_the_opening_of_the_judged_reply(reply, refused):
    assert judged(["Do it", reply, "ok"])[0]["refusal"] is refused


def test_rows_are_the_feedback_turns_in_order_whatever_the_roles():
    messages = [
        [
            ("system", "s"),
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("user", "d"),
            ("assistant", "e"),
        ],
        [],
        [("assistant", "x"), ("user", "y"), ("assistant", "z"), ("user", "w")],
    ]
    rows = [
        {"conversation_id": i, "source": "t", "messages": [{"role": r, "content": c} for r, c in m]}
        for i, m in zip("xyz", messages, strict=True)
    ]
    batch = pa.Table.from_pylist(rows, schema=CONVERSATIONS).to_batches()[0]
    for part in (batch, batch.slice(1), batch.slice(0, 0)):
        [answer] = JUDGE.judge([part])
        wanted = [
            (row["conversation_id"], t)
            for row in part.to_pylist()
            for t in find_feedback_turns(row["messages"])
        ]
        got = answer.rows.to_pylist()
        assert [(row["conversation_id"], row["turn"]) for row in got] == wanted


def test_a_request_sent_by_another_conversation_is_not_asked_again():
    request = "Please write me a short poem about the sea at night"
    rows = judged([request, PLAIN, "Why the sea?"], [request, PLAIN, "And who is the captain?"])
    assert [label(row) for row in rows] == [NEUTRAL, NEUTRAL]


def test_hostile_text_costs_bounded_time_and_is_no_pattern():
    hostile = [
        "\x01\x02 no \x03" * 200_000,
        "{a,b}^$|" * 100_000,
        "(a+)+$" * 100_000,
        "\u202e" * 50_000,
        "🤬" * 9,
    ]
    start = time.monotonic()
    rows = judged(*[["q " + text, text, text] for text in hostile])
    assert time.monotonic() - start < 20
    assert len(rows) == len(hostile)


def test_a_cue_is_matched_as_whole_words_with_its_anchors():
    table = expand_cues(["^{no,nope}", "not good", "thanks$", "不对"])
    assert table["cue"].to_list() == [0, 0, 1, 2, 3]
    assert table["pattern"].to_list() == [
        "\x02 \x01 no ",
        "\x02 \x01 nope ",
        " not good ",
        " thanks \x01 \x03",
        "不对",
    ]
    with pytest.raises(ValueError, match="no words"):
        expand_cues(["^!!"])


def test_a_look_at_the_raw_text_misses_no_phrase_and_saves_most_of_the_folding():
    cues, rng = load_cues(), np.random.default_rng(0)
    phrases = [pattern for pattern in expand_cues(cues.refusal)["pattern"] if pattern.isascii()]
    between = [" ", " ", " ", "  ", ", ", "-", "\n", ".", "'", "`", "' ", " x ", "\x01", "_"]
    texts = []
    for number in range(4_000):
        words = phrases[number % len(phrases)].upper().split()[number % 2 :]
        gaps = rng.choice(between, len(words))
        texts.append("".join(f"{gap}{word[:1]}'{word[1:]}" for gap, word in zip(gaps, words, strict=True)))
    frame = pl.DataFrame({"text": [*texts, "", "café", "Sorry, me"]})
    found = frame.select(
        held=mark_searchable(pl.col("text")).str.contains_any(phrases), may=may_hold(pl.col("text"), phrases)
    )
    assert found.filter("held").height > 500 and found.filter(pl.col("held") & ~pl.col("may")).is_empty()
    assert found.filter(~pl.col("held") & pl.col("may")).height < 800  # a sentence ends within the phrase
    assert found["may"].to_list()[-3:] == [False, True, False]
    assert cues.find_refusals(frame["text"]).to_list() == found["held"].to_list()


def test_a_model_is_read_as_it_was_written_and_nothing_else_is(tmp_path):
    model, path = load_classifier(), tmp_path / "model.npz"
    model.save(path)
    again = load_classifier(path)
    assert again.hash == model.hash and again.card == model.card
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()

    whole = path.read_bytes()
    for name, content in {
        "pickle": pickle.dumps({"card": 1}),
        "cut": whole[: len(whole) // 2],
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is not a classifier of this toolkit"):
            load_classifier(tmp_path / name)
    with pytest.raises(UserError, match="make distill"):
        load_classifier(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item_numbers": np.full((0, 3), 1.0, np.float32)}, "do not fit together"),
        ({"texts": "nan"}, "numbers that are infinite or not a number"),
        ({"card": "features"}, "Run `make distill` again"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path, change, said):
    model = load_classifier()
    if change.get("texts") == "nan":
        change = {"texts": {field: np.full_like(w, np.nan) for field, w in model.texts.items()}}
    if change.get("card") == "features":
        change = {"card": model.card.model_copy(update={"features": 0})}
    replace(model, **change).save(tmp_path / "m.npz")
    with pytest.raises(UserError, match=said):
        load_classifier(tmp_path / "m.npz")


def test_another_model_has_other_options():
    model = load_classifier()
    slope, offset = model.calibration
    other = LocalJudge(replace(model, calibration=(slope, offset + 1)))
    assert other.options != JUDGE.options


def test_trees_say_what_scikit_learn_says():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(600, 5)).astype(np.float32)
    target = numbers[:, 0] * numbers[:, 1] > 0
    fitted = GradientBoostingClassifier(n_estimators=20, max_depth=DEPTH, random_state=0).fit(numbers, target)
    assert Trees.from_sklearn(fitted).log_odds(numbers) == pytest.approx(
        fitted.decision_function(numbers), abs=1e-5
    )


def test_labelling_needs_no_scikit_learn():
    code = "import sys, drift_data.judge.local as local; local.LocalJudge(); print({'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
