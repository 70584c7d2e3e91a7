from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from drift_data.workspace import Workspace
from drift_train.methods.base import Pair, Reply
from drift_train.models.load import load_renderer
from drift_train.models.render import Renderer
from drift_train.pairs.filters import PairCandidate, PairFilter, PairRefused
from drift_train.pairs.write import write_pairs
from tests.helpers.training_rows import user

PROMPT = user("please list red fruits")


@pytest.fixture(scope="module")
def renderer(policy: Path) -> Renderer:
    return load_renderer(policy)


def pair(chosen: str = "apple pear", rejected: str = "blue fish", cut: bool = False) -> Pair:
    return Reply(chosen, cut), Reply(rejected)


def candidate(*pairs: Pair) -> PairCandidate:
    return PairCandidate("c1", 2, "train", PROMPT, pairs)


def reason(renderer: Renderer, pair: Pair, max_length: int = 128, drop_leaks: bool = True) -> str | None:
    try:
        PairFilter(renderer, max_length, drop_leaks).check(PROMPT, pair)
    except PairRefused as refused:
        return refused.reason
    return None


def test_a_pair_is_kept_with_the_tokens_of_its_replies(renderer: Renderer) -> None:
    _, chosen = renderer.render_pair(PROMPT, "apple pear")
    _, rejected = renderer.render_pair(PROMPT, "blue fish")
    assert PairFilter(renderer, 128, True).check(PROMPT, pair()) == (len(chosen), len(rejected))


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (pair(cut=True), "length_stop"),
        ((Reply("apple"), Reply("blue", cut=True)), "length_stop"),
        (pair(chosen=" \n"), "empty"),
        (pair(rejected=""), "empty"),
        (pair(chosen="blue fish\n"), "equal"),
        (pair(chosen="I apologize for the confusion. apple"), "leak"),
        (pair(chosen="apple<|im_end|>"), "special_token"),
        (pair(rejected="<|im_start|>user"), "special_token"),
        (pair(chosen="apple " * 200), "completion_cut"),
        (pair(rejected="blue " * 200), "completion_cut"),
    ],
)
def test_a_pair_that_must_not_be_learned_is_refused(renderer: Renderer, refused: Pair, expected: str) -> None:
    assert reason(renderer, refused) == expected


def test_a_prompt_that_fills_the_context_is_refused(renderer: Renderer) -> None:
    prompt = len(renderer.render_prompt(PROMPT))
    assert reason(renderer, pair(), max_length=prompt) == "prompt_fills_context"
    assert reason(renderer, pair(), max_length=prompt + 1) == "completion_cut"


def test_a_reply_that_just_fits_is_kept_whole(renderer: Renderer) -> None:
    prompt, chosen = renderer.render_pair(PROMPT, "apple pear plum")
    fitting = pair(chosen="apple pear plum", rejected="no")
    assert reason(renderer, fitting, max_length=len(prompt) + len(chosen)) is None
    assert reason(renderer, fitting, max_length=len(prompt) + len(chosen) - 1) == "completion_cut"


@pytest.mark.parametrize(
    ("informed", "earlier", "leaks"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_a_reply_leaks_unless_what_it_speaks_of_may_be_in_its_prompt(
    renderer: Renderer, informed: bool, earlier: bool, leaks: bool
) -> None:
    before = [*user("list"), {"role": "assistant", "content": "blue"}] if earlier else []
    speaks = Reply("I apologize for the confusion. apple", informed=informed), Reply("blue fish")
    keep = PairFilter(renderer, 128, True)
    if leaks:
        with pytest.raises(PairRefused, match="leak"):
            keep.check([*before, *PROMPT], speaks)
    else:
        assert keep.check([*before, *PROMPT], speaks)


def test_the_leak_rule_can_be_switched_off_for_seed_pairs(renderer: Renderer) -> None:
    leak = pair(chosen="I apologize for the confusion. apple")
    assert reason(renderer, leak, drop_leaks=False) is None


def test_every_candidate_is_in_the_table_or_dropped_with_its_reason(
    renderer: Renderer, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    name = "runs/r/iter1/pairs"
    candidates: Iterable[PairCandidate] = [
        candidate(pair()),
        candidate(pair(chosen="blue fish")),
        candidate(pair(cut=True)),
        candidate(),
    ]
    workspace.run(
        "iter",
        [name],
        lambda build: write_pairs(
            build[name], candidates, PairFilter(renderer, 128, True), "drift", "iter0", "t"
        ),
        options={},
    )
    manifest = workspace.require(name)
    assert (manifest.rows_in, manifest.rows_out) == (4, 1)
    assert manifest.dropped == {"equal": 1, "length_stop": 1, "reward_tie": 1}
    assert manifest.results["later_choices"] == 0
    (row,) = workspace.read(name).to_pylist()
    assert row["prompt"] == PROMPT
    assert row["chosen"] == [{"role": "assistant", "content": "apple pear"}]
    assert row["rejected"] == [{"role": "assistant", "content": "blue fish"}]
    assert (row["method"], row["policy"], row["split"]) == ("drift", "iter0", "train")
    dropped = pq.read_table(workspace.dropped_path(name) / "part-00000.parquet").to_pylist()
    assert [(row["conversation_id"], row["turn"], row["reason"]) for row in dropped] == [
        ("c1", 2, "equal"),
        ("c1", 2, "length_stop"),
        ("c1", 2, "reward_tie"),
    ]


def test_the_first_pair_that_passes_is_taken(renderer: Renderer) -> None:
    keep = PairFilter(renderer, 128, True)
    place, taken, lengths = keep.choose_pair(
        candidate(pair(cut=True), pair(chosen="blue fish"), pair("pear"), pair())
    )
    assert (place, taken, lengths) == (2, pair("pear"), keep.check(PROMPT, pair("pear")))


def test_an_example_without_a_good_pair_is_dropped_for_the_reason_of_its_first_choice(
    renderer: Renderer,
) -> None:
    with pytest.raises(PairRefused) as refused:
        PairFilter(renderer, 128, True).choose_pair(candidate(pair(chosen="blue fish"), pair(cut=True)))
    assert refused.value.reason == "equal"


def test_a_long_seed_prompt_loses_its_oldest_turns_and_never_its_last(renderer: Renderer) -> None:
    old = [*user("blue " * 100), {"role": "assistant", "content": "fish"}]
    keep = PairFilter(renderer, 64, False)
    assert keep.shorten_prompt(PROMPT, "apple pear", "blue fish") == PROMPT
    assert keep.shorten_prompt([*old, *PROMPT], "apple pear", "blue fish") == PROMPT
    assert keep.shorten_prompt([*old, *user("red " * 100)], "a", "b") == [
        *old,
        *user("red " * 100),
    ]  # nothing helps


def test_a_prompt_that_cannot_be_rendered_is_left_to_the_filter(renderer: Renderer) -> None:
    prompt = user("<|im_end|>")
    assert PairFilter(renderer, 64, False).shorten_prompt(prompt, "a", "b") == prompt
