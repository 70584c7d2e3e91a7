"""Mining: each choice of the contract has its own test."""

import polars as pl
import pyarrow as pa
import pytest

from drift_data.chats.order import choose_split
from drift_data.mine.options import MineOptions
from drift_data.mine.rules import LabelledTurn, mine_conversation
from drift_data.mine.stage import mine
from drift_data.schema import CONVERSATIONS, LABEL_ROWS
from drift_data.workspace import UserError, Workspace


def chat(*texts: str) -> list[dict[str, str]]:
    """user, assistant, user, …"""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


FIVE = chat("q1", "a1", "f1", "a2", "f2", "a3", "f3", "a4", "f4")


def kept(found, table):
    return [c.row for c in found[table] if c.reason is None]


def reasons(found, table):
    return [(c.row["turn"], c.reason) for c in found[table] if c.reason is not None]


def dsat(turn, score=9.0, **more):
    return LabelledTurn(turn, "DSAT", score, **more)


def sat(turn, score=9.0, **more):
    return LabelledTurn(turn, "SAT", score, **more)


ALL = MineOptions(per_conversation="all", test_fraction=0)


def test_a_dsat_example_is_the_messages_before_the_reply_the_reply_and_the_complaint():
    found = mine_conversation(
        "c", FIVE, [dsat(4, items=("Revision",), reason="why")], MineOptions(test_fraction=0)
    )
    assert kept(found, "dsat") == [
        {
            "conversation_id": "c",
            "turn": 4,
            "split": "train",
            "prompt": FIVE[:3],
            "rejected": [{"role": "assistant", "content": "a2"}],
            "feedback": "f2",
            "items": ["Revision"],
            "reason": "why",
        }
    ]
    assert found["sat"] == found["seed"] == []


def test_a_sat_example_has_the_reply_as_chosen():
    found = mine_conversation("c", FIVE, [sat(2)], ALL)
    [row] = kept(found, "sat")
    assert (row["prompt"], row["chosen"], row["feedback"]) == (FIVE[:1], [FIVE[1]], "f1")


@pytest.mark.parametrize("label", ["dsat", "sat"])
def test_only_the_strongest_turn_of_a_conversation_stays(label):
    turns = [LabelledTurn(turn, label.upper(), score) for turn, score in [(2, 3.0), (4, 9.0), (6, 5.0)]]
    found = mine_conversation("c", FIVE, turns, MineOptions())
    assert [row["turn"] for row in kept(found, label)] == [4]
    assert reasons(found, label) == [(2, "not_the_strongest"), (6, "not_the_strongest")]


def test_of_equally_strong_turns_the_later_stays():
    found = mine_conversation("c", FIVE, [dsat(2, 6), dsat(4, 6), dsat(6, 5)], MineOptions())
    assert [row["turn"] for row in kept(found, "dsat")] == [4]


def test_all_turns_stay_when_the_recipe_says_all():
    found = mine_conversation("c", FIVE, [dsat(2, 3), dsat(4, 9)], ALL)
    assert [row["turn"] for row in kept(found, "dsat")] == [2, 4]


def test_a_complaint_about_a_refusal_is_set_aside_and_the_next_strongest_taken():
    turns = [dsat(2, 9, refusal=True), dsat(4, 3)]
    found = mine_conversation("c", FIVE, turns, MineOptions())
    assert [row["turn"] for row in kept(found, "dsat")] == [4]
    assert reasons(found, "dsat") == [(2, "refusal")]
    assert [
        r["turn"] for r in kept(mine_conversation("c", FIVE, turns, MineOptions(keep_refusals=True)), "dsat")
    ] == [2]


def test_a_complaint_about_a_correct_refusal_is_set_aside_as_such_an_undeserved_one_counts():
    turns = [dsat(2, 9, refusal=True, correct_refusal=True), dsat(4, 3, refusal=True, correct_refusal=False)]
    found = mine_conversation("c", FIVE, turns, MineOptions())
    assert [r["turn"] for r in kept(found, "dsat")] == [4]
    assert reasons(found, "dsat") == [(2, "correct_refusal")]


def test_a_refusal_is_no_rejected_reply_of_a_seed_pair_either():
    found = mine_conversation("c", FIVE, [dsat(2, refusal=True), sat(4)], ALL)
    assert kept(found, "seed") == []
    assert reasons(found, "seed") == [(2, "refusal")]


def test_a_seed_pair_is_the_reply_that_drew_dsat_and_the_revised_one_that_drew_sat():
    found = mine_conversation("c", FIVE, [dsat(4), sat(6)], ALL)
    assert kept(found, "seed") == [
        {
            "conversation_id": "c",
            "turn": 4,
            "split": "train",
            "prompt": FIVE[:3],
            "feedback": "f2",
            "rejected": [FIVE[3]],
            "chosen": [FIVE[5]],
        }
    ]


@pytest.mark.parametrize(
    "turns",
    [
        [dsat(2), sat(6)],  # a neutral turn between
        [sat(2), dsat(4)],  # the wrong way round
        [dsat(2), dsat(4)],
        [dsat(8)],  # nothing follows
    ],
)
def test_a_seed_pair_needs_dsat_directly_before_sat(turns):
    assert mine_conversation("c", FIVE, turns, ALL)["seed"] == []


def test_in_a_chain_of_complaints_the_last_failing_reply_is_rejected():
    found = mine_conversation("c", FIVE, [dsat(2, 9), dsat(4, 3), sat(6)], MineOptions())
    [pair] = kept(found, "seed")
    assert (pair["turn"], pair["rejected"], pair["chosen"]) == (4, [FIVE[3]], [FIVE[5]])
    assert [row["turn"] for row in kept(found, "dsat")] == [
        2
    ]  # the strongest is another turn, and that is fine


def test_a_message_from_another_role_between_complaint_and_revision_makes_no_pair():
    messages = [*FIVE[:3], {"role": "system", "content": "s"}, *FIVE[3:5]]
    assert mine_conversation("c", messages, [dsat(2), sat(5)], ALL)["seed"] == []


def test_seed_pairs_with_an_unchanged_or_empty_reply_are_dropped():
    same = mine_conversation("c", chat("q", "a", "f", "a", "g"), [dsat(2), sat(4)], ALL)
    assert reasons(same, "seed") == [(2, "same_reply")]
    empty = mine_conversation("c", chat("q", "a", "f", " ", "g"), [dsat(2), sat(4)], ALL)
    assert reasons(empty, "seed") == [(2, "empty_reply")]
    assert [row["turn"] for row in kept(empty, "dsat")] == [2]


def test_rows_that_make_no_example_say_why():
    def reason(messages, turn):
        return reasons(mine_conversation("c", messages, [dsat(turn)], ALL), "dsat")

    assert reason(chat("q", "", "f"), 2) == [(2, "empty_reply")]
    assert reason(chat("q", "a", "\n"), 2) == [(2, "empty_feedback")]
    assert reason(chat("q", "a", "f"), 1) == [(1, "not_a_feedback_turn")]
    assert reason(chat("q", "a", "f"), 9) == [(9, "not_a_feedback_turn")]
    assert reason(chat("q", "a", "f")[1:], 1) == [(1, "prompt_without_question")]


def test_split_is_a_fixed_function_of_the_conversation_with_the_stated_share():
    assert choose_split("0001", 0.01) == "train"
    assert {choose_split("x", 0.0), choose_split("y", 0.0)} == {"train"}
    assert choose_split("x", 1.0) == "test"
    ids = [f"conversation-{i}" for i in range(20_000)]
    tested = {i for i in ids if choose_split(i, 0.01) == "test"}
    assert 150 < len(tested) < 250
    assert tested <= {i for i in ids if choose_split(i, 0.05) == "test"}  # a larger share only adds
    assert sorted(tested)[:3] == ["conversation-10048", "conversation-10132", "conversation-10175"]  # golden


# --- the stage ---------------------------------------------------------------------------------------------


def workspace_with(tmp_path, labelled):
    """`labelled`: id → (messages, [(turn, label, score)]); label rows are written in reverse order."""
    workspace = Workspace(tmp_path)
    chats = [{"conversation_id": i, "source": "t", "messages": m} for i, (m, _) in labelled.items()]
    rows = [
        {
            "conversation_id": i,
            "turn": turn,
            "label": label,
            "sat_score": score if label == "SAT" else 0,
            "dsat_score": score if label == "DSAT" else 0,
            "items": [
                {"name": "Style", "polarity": "DSAT", "strength": 3},
                {"name": "Praise", "polarity": "SAT", "strength": 2},
            ],
            "judge": "t:t",
            "rubric": "r",
        }
        for i, (_, turns) in labelled.items()
        for turn, label, score in turns
    ]

    def convert(build):
        build["conversations"].table(CONVERSATIONS).write_rows(chats)
        build["labels/t"].table(LABEL_ROWS).write_rows(rows[::-1])

    workspace.run("convert", ["conversations", "labels/t"], convert, options={})
    return workspace


def test_the_stage_accounts_for_every_labelled_turn_and_joins_by_key(tmp_path, capsys):
    workspace = workspace_with(
        tmp_path,
        {
            "b": (chat("q", "a1", "f", "a2", "g"), [(2, "DSAT", 4), (4, "SAT", 4)]),
            "a": (FIVE, [(2, "NEUTRAL", 0), (4, "DSAT", 4), (6, "DSAT", 8), (8, "DSAT", 2)]),
            "c": (FIVE, [(2, "NEUTRAL", 0)]),
        },
    )
    assert mine(workspace, "labels/t", MineOptions(test_fraction=0))
    rows = workspace.read("dsat").to_pylist()
    assert [(r["conversation_id"], r["turn"], r["rejected"][0]["content"]) for r in rows] == [
        ("b", 2, "a1"),  # the order of the conversations, not of the labels
        ("a", 6, "a3"),
    ]
    assert rows[0]["items"] == ["Style"]
    assert workspace.read("sat").to_pylist()[0]["items"] == ["Praise"]
    assert workspace.read("seed").num_rows == 1
    assert "NO SEED" not in capsys.readouterr().err
    manifest = workspace.require("dsat")
    assert (manifest.rows_in, manifest.rows_out, manifest.dropped) == (4, 2, {"not_the_strongest": 2})
    dropped = pl.read_parquet(workspace.dropped_path("dsat") / "*.parquet").sort("turn")
    assert dropped["turn"].to_list() == [4, 8]
    assert not mine(workspace, "labels/t", MineOptions(test_fraction=0))
    assert mine(workspace, "labels/t", MineOptions(test_fraction=0, per_conversation="all"))
    assert workspace.require("dsat").rows_out == 4


def test_no_seed_pair_at_all_is_a_normal_outcome_said_loudly(tmp_path, capsys):
    workspace = workspace_with(tmp_path, {"a": (FIVE, [(2, "DSAT", 4)])})
    assert mine(workspace, "labels/t", MineOptions())
    assert "NO SEED PAIRS" in capsys.readouterr().err
    manifest = workspace.require("seed")
    assert manifest.rows_out == 0 and "base model" in manifest.results["notice"]
    assert workspace.read("seed").num_rows == 0
    assert workspace.read("dsat").num_rows == 1


def test_labels_of_an_unknown_conversation_or_doubled_labels_stop_the_stage(tmp_path):
    workspace = workspace_with(tmp_path / "twice", {"a": (FIVE, [(2, "DSAT", 4), (2, "SAT", 4)])})
    with pytest.raises(UserError, match="two labels for turn 2 of conversation a"):
        mine(workspace, "labels/t", MineOptions())
    workspace = workspace_with(tmp_path / "orphan", {"a": (FIVE, [(2, "DSAT", 4)])})
    stray = workspace.read("labels/t").set_column(0, LABEL_ROWS.field(0), pa.array(["zzz"]))

    def relabel(build):
        build["labels/u"].table(LABEL_ROWS).write(stray)

    workspace.run("label", ["labels/u"], relabel, options={})
    with pytest.raises(UserError, match="zzz"):
        mine(workspace, "labels/u", MineOptions())
    assert workspace.manifest("dsat") is None


def test_many_batches_and_long_label_tables_keep_every_row(tmp_path):
    labelled = {
        f"c{i:05d}": (FIVE, [(turn, "DSAT" if (i + turn) % 3 else "SAT", 1 + i % 5) for turn in (2, 4, 6, 8)])
        for i in range(3_500)  # more than one batch of conversations and of labels
    }
    workspace = workspace_with(tmp_path, labelled)
    mine(workspace, "labels/t", MineOptions(per_conversation="all", test_fraction=0.1))
    for name in ("dsat", "sat"):
        got = {
            (r["conversation_id"], r["turn"])
            for r in workspace.read(name, ["conversation_id", "turn"]).to_pylist()
        }
        wanted = {
            (i, t) for i, (_, turns) in labelled.items() for t, label, _ in turns if label.lower() == name
        }
        assert got == wanted


def test_a_workspace_whose_name_is_a_pattern_is_mined_with_its_own_labels(tmp_path):
    workspace_with(tmp_path / "work1", {"a": (FIVE, [(2, "SAT", 4)])})
    workspace = workspace_with(tmp_path / "work[1]", {"a": (FIVE, [(4, "DSAT", 4)])})
    assert mine(workspace, "labels/t", MineOptions())
    assert workspace.read("dsat")["turn"].to_pylist() == [4]
