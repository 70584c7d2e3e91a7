"""Reward models on the spot: what they are shown, what is cut, and that a score belongs to its reply."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from drift_data.schema import REWARDS, ROLLOUTS
from drift_data.workspace import UserError, Workspace
from drift_train.models.log_probs import CheckError
from drift_train.models.render import Message
from drift_train.options import RewardOptions
from drift_train.pairs.reward import PromptAndReply, RewardModel, write_rewards
from tests.helpers.random_policy import TEMPLATE, make_policy
from tests.helpers.random_reward import make_chat_reward, make_pair_reward
from tests.helpers.training_rows import assistant, edit_json, user

DIALOGUE = [*user("please list red fruits"), *assistant("blue fish"), *user("no that is wrong")]
ROWS: list[PromptAndReply] = [
    (user("please list fruits"), "apple pear plum"),
    (user("one two"), "four"),
    (DIALOGUE, "apple"),
    (user("please list three red fruits"), "blue fish sorry no that is wrong again"),
]


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_reward(tmp_path_factory.mktemp("reward") / "pair")


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_reward(tmp_path_factory.mktemp("reward") / "chat")


def plain(folder: Path, *texts: str) -> float:
    """Score by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return float(model(**tokenizer(*texts, return_tensors="pt")).logits.item())


def loaded(folder: Path, **options: int) -> RewardModel:
    return RewardModel(folder, RewardOptions(model=str(folder), **options))


def test_without_a_chat_template_question_and_answer_are_two_texts(pair_folder: Path) -> None:
    scores = loaded(pair_folder, batch_size=2).score(ROWS)
    question = "User: please list red fruits\n\nAssistant: blue fish\n\nUser: no that is wrong"
    assert scores == pytest.approx(
        [
            plain(pair_folder, "please list fruits", "apple pear plum"),
            plain(pair_folder, "one two", "four"),
            plain(pair_folder, question, "apple"),
            plain(pair_folder, "please list three red fruits", "blue fish sorry no that is wrong again"),
        ],
        abs=1e-5,
    )
    assert len({round(score, 3) for score in scores}) == 4


def test_with_a_chat_template_the_whole_chat_is_rendered(chat_folder: Path) -> None:
    scores = loaded(chat_folder, batch_size=4).score(ROWS[:3])
    texts = [
        "".join(
            f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>"
            for message in [*prompt, *assistant(reply)]
        )
        for prompt, reply in ROWS[:3]
    ]
    assert scores == pytest.approx([plain(chat_folder, text) for text in texts], abs=1e-5)
    assert len({round(score, 3) for score in scores}) == 3


@pytest.mark.parametrize("pad", [None, 3])
def test_rows_go_one_by_one_where_model_and_tokenizer_pad_differently(
    tmp_path: Path, pad: int | None
) -> None:
    folder = make_chat_reward(tmp_path / "model", pad=pad)
    assert loaded(folder, batch_size=4).score(ROWS[:2]) == [
        loaded(folder).score([row])[0] for row in ROWS[:2]
    ]


LONG = " ".join(["apple pear plum one two four"] * 20)


@pytest.mark.parametrize("make", [make_pair_reward, make_chat_reward])
def test_a_long_reply_is_judged_by_its_beginning(tmp_path: Path, make: type[make_pair_reward]) -> None:
    model = loaded(make(tmp_path / "model"))
    short = user("please list")
    whole, other_end, other_start = model.score(
        [(short, LONG), (short, f"{LONG} blue fish"), (short, f"blue fish {LONG}")]
    )
    assert model.shortened == 3
    assert whole == pytest.approx(other_end, abs=1e-6)
    assert abs(whole - other_start) > 1e-3


@pytest.mark.parametrize("make", [make_pair_reward, make_chat_reward])
def test_a_long_conversation_loses_its_oldest_turns(tmp_path: Path, make: type[make_pair_reward]) -> None:
    model = loaded(make(tmp_path / "model"))
    newest: list[Message] = [*user("red fruits"), *assistant("apple"), *user("again")]
    rows: list[PromptAndReply] = [
        ([*user(LONG), *assistant("blue"), *newest], "plum"),
        ([*user(f"fish {LONG}"), *assistant("thanks"), *newest], "plum"),
        (newest, "plum"),
    ]
    scores = model.score(rows)
    assert model.shortened == 2
    assert scores == pytest.approx([scores[2]] * 3, abs=1e-6)


@pytest.mark.parametrize("make", [make_pair_reward, make_chat_reward])
def test_a_long_question_loses_its_beginning_and_leaves_the_reply_a_quarter(
    tmp_path: Path, make: type[make_pair_reward]
) -> None:
    model = loaded(make(tmp_path / "model"))
    whole, other_start, other_end, other_reply = model.score(
        [
            (user(LONG), LONG),
            (user(f"blue {LONG}"), LONG),
            (user(f"{LONG} blue"), LONG),
            (user(LONG), f"blue fish {LONG}"),
        ]
    )
    assert whole == pytest.approx(other_start, abs=1e-6)
    assert abs(whole - other_end) > 1e-3
    assert abs(whole - other_reply) > 1e-3


def test_a_shorter_limit_can_be_set_and_a_longer_one_than_the_models_is_not_taken(pair_folder: Path) -> None:
    assert loaded(pair_folder).max_length == 48
    assert loaded(pair_folder, max_length=20).max_length == 20
    assert loaded(pair_folder, max_length=100).max_length == 48


def test_a_limit_too_small_for_anything_is_a_clear_error(tmp_path: Path) -> None:
    folder = make_chat_reward(
        tmp_path / "model", template="{{ 'please list three red fruits ' * 4 }}" + TEMPLATE
    )
    with pytest.raises(UserError, match="max_length 16 leaves no room"):
        loaded(folder, max_length=16).score([(user(LONG), LONG)])


def test_a_model_with_two_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one trained output, and it has 2"):
        loaded(make_pair_reward(tmp_path / "model", outputs=2))


def test_a_language_model_is_refused_as_its_score_would_be_random(tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "model")
    edit_json(folder / "config.json", num_labels=1, id2label={"0": "x"}, label2id={"x": 0})
    with pytest.raises(UserError, match=r"is not a reward model.*score\.weight"):
        loaded(folder)


def test_weights_that_are_no_safetensors_are_refused(pair_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pair_folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights as safetensors"):
        loaded(folder)


def test_a_model_that_needs_its_own_code_is_refused(pair_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pair_folder, folder)
    (folder / "code.py").write_text("raise SystemExit('this must not run')\n")
    edit_json(
        folder / "config.json",
        model_type="own",
        auto_map={
            "AutoConfig": "code.Config",
            "AutoModelForSequenceClassification": "code.Model",
        },
    )
    with pytest.raises(UserError, match="does not load"):
        loaded(folder)


def test_a_score_that_is_no_number_stops_with_the_reply(pair_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pair_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckError, match="nan to the reply 'apple pear plum'"):
        loaded(folder).score(ROWS)


def rollout(i: int, kind: str, sample: int) -> dict[str, object]:
    guiding = [*assistant("blue fish"), *user("no that is wrong\n\nagain")] if kind == "guided" else []
    return {
        "conversation_id": f"c{i}",
        "turn": 2,
        "sample": sample,
        "kind": kind,
        "messages": [*user(f"list {i}"), *guiding],
        "completion": f"apple {i} {kind} {sample}",
        "token_ids": [1],
        "finish_reason": "stop",
        "engine": "transformers",
        "seed": 1,
    }


class Words:
    """A reward that says what it was shown."""

    def __init__(self) -> None:
        self.seen: list[PromptAndReply] = []

    def score(self, rows: list[PromptAndReply]) -> list[float]:
        self.seen += rows
        return [float(len(self.seen) - len(rows) + at) for at in range(len(rows))]


def test_every_rollout_gets_its_score_as_a_reply_to_the_training_prompt(tmp_path: Path) -> None:
    workspace, words = Workspace(tmp_path), Words()
    rows = [rollout(i, kind, sample) for i in range(3) for kind in ("guided", "plain") for sample in (0, 1)]
    workspace.run(
        "iter", ["rollouts"], lambda build: build["rollouts"].table(ROLLOUTS).write_rows(rows), options={}
    )
    workspace.run(
        "iter",
        ["rewards"],
        lambda build: write_rewards(
            build["rewards"], workspace.batches("rollouts", batch_size=5), len(rows), words, "t"
        ),
        options={},
    )
    made = workspace.read("rewards")
    assert made.schema.equals(REWARDS)
    assert words.seen == [(user(f"list {row['conversation_id'][1:]}"), row["completion"]) for row in rows]  # type: ignore[index]
    keys = ("conversation_id", "turn", "kind", "sample")
    assert made.to_pylist() == [
        {**{key: row[key] for key in keys}, "reward": float(at)} for at, row in enumerate(rows)
    ]
