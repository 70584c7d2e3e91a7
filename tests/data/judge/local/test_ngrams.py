"""Hashed n-grams by value: beside plain Python that hashes one text at a time, as stored models read them."""

import unicodedata
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pytest

from drift_data.judge.local.cues import load_cues
from drift_data.judge.local.features import MISSING, join_turns, read_turns
from drift_data.judge.local.ngrams import (
    FoldedTexts,
    Ragged,
    count_common_ends,
    count_shared,
    hash_word_runs,
    join_grams,
    remove_known,
)
from drift_data.schema import CONVERSATIONS

BASE, LIMIT = 0x9E3779B97F4A7C15, 1 << 64


def mixed(value):
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % LIMIT
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % LIMIT
    return value ^ (value >> 31)


def polynomial(keys, length):
    value = 0
    for key in keys:
        value = (value * BASE + key) % LIMIT
    return mixed((value + length) % LIMIT)


def hashed(word):
    """Return the hash of a word; a long one is known by its first 40 characters and its length."""
    return polynomial(map(ord, word[:40]), len(word))


def lists(ragged):
    bounds = ragged.starts.tolist()
    return [ragged.values[first:last].tolist() for first, last in pairwise(bounds)]


def all_grams(parts):
    """Return the n-grams of each text, whatever their lengths."""
    texts = zip(
        *([p.hashes[a:b].tolist() for a, b in zip(p.starts, p.ends, strict=True)] for p in parts), strict=True
    )
    return [sorted(chain.from_iterable(found)) for found in texts]


def character_grams(text, shortest=3, longest=5):
    return sorted(
        polynomial(map(ord, text[at : at + n]), n)
        for n in range(shortest, longest + 1)
        for at in range(len(text) - n + 1)
    )


def ragged(*texts):
    return Ragged(np.cumsum([0, *map(len, texts)]), np.array([*chain.from_iterable(texts)], np.uint64))


def key(number):
    """Return a key whose upper 40 bits tell it from others."""
    return number << 24


WORDS = {
    "Hello, World!": ["hello", "world", "!"],
    "don't DON’T dont": ["dont"] * 3,
    "Café cafe\u0301 CAFÉ": ["cafe"] * 3,
    "naïve—Straße": ["naive", "straße"],
    "ﬁn ２nd x²": ["fn", "2nd", "x2"],  # of what a sign stands for, the first character counts
    "why?? no！": ["why", "?", "?", "no", "!"],
    "日本語 ok ไท": ["日", "本", "語", "ok", "ไ", "ท"],
    "Жук и жук": ["жук", "и", "жук"],
    "a🤬b 𠀀": ["a", "🤬", "b", "𠀀"],
    "a_b-c\td\n\ne\x00f": ["a", "b", "c", "d", "e", "f"],
    "": [],
    "'": [],
    "... -- ’’ \u0301\n": [],
    "k" * 39 + " " + "k" * 40 + " " + "k" * 41: ["k" * 39, "k" * 40, "k" * 41],
    "k" * 40 + "ab": ["k" * 40 + "zz"],
}


@pytest.mark.parametrize("text", WORDS)
def test_words_are_folded_and_hashed_alone_and_among_others(text):
    wanted = [hashed(word) for word in WORDS[text]]
    assert lists(FoldedTexts([text], 400).hash_words()) == [wanted]
    assert lists(FoldedTexts(["Ünd'", text, "", text, "x"], 400).hash_words())[1:4] == [wanted, [], wanted]


def test_the_hash_of_a_word_never_changes():
    [found] = lists(FoldedTexts(["Again, 中!"], 9).hash_words())
    assert found == [0x5413D2399938250D, 0x60E3BD26DAE6516D, 0xC67949C3A864283C]


def test_no_texts_have_no_words_and_no_ngrams():
    empty = FoldedTexts([], 9)
    assert (
        lists(empty.hash_words())
        == []
        == all_grams(empty.hash_characters(3, 5))
        == all_grams(hash_word_runs(empty.hash_words(), 3))
    )


def test_of_a_long_text_both_ends_are_read_apart():
    assert lists(FoldedTexts(["abc defg hij", "abcdef"], 3).hash_words()) == [
        [hashed("abc"), hashed("hij")],
        [hashed("abcdef")],
    ]


def test_a_long_text_has_the_same_hashes_wherever_a_block_of_the_work_ends():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abcdé"], size)) for size in rng.integers(1, 60, 4_000)]
    plain = [unicodedata.normalize("NFD", word).replace("\u0301", "") for word in words]
    texts = ["x", " ".join(words), "y"]
    found = FoldedTexts(texts, 1_000_000)
    keys = [hashed(word) for word in plain]
    assert lists(found.hash_words()) == [[hashed("x")], keys, [hashed("y")]]
    assert all_grams(found.hash_characters(3, 5))[1] == character_grams(" ".join(plain) + " ")
    wanted = sorted(polynomial(keys[at : at + n], n) for n in (1, 2, 3) for at in range(len(keys) - n + 1))
    assert all_grams(hash_word_runs(found.hash_words(), 3))[1] == wanted


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Ab, c", "ab c "),
        ("a", "a "),
        ("no!", "no! "),
        ("...é..", "e "),
        ("", ""),
        ("''", ""),
        ("日 本", "日 本 "),
    ],
)
def test_characters_run_over_words_with_one_space_after_each(text, read):
    texts = FoldedTexts([text, "zz", text, "", text], 9)
    wanted = character_grams(read)
    assert all_grams(texts.hash_characters(3, 5)) == [wanted, character_grams("zz "), wanted, [], wanted]
    assert all_grams(texts.hash_characters(1, 2))[0] == character_grams(read, 1, 2)


def test_the_last_text_of_a_batch_has_the_ngrams_that_it_has_elsewhere():
    # Once it lost the separator after its last word, and with it the n-grams that tell a word's end.
    texts = ["that is wrong", "thanks"]
    ahead, behind = FoldedTexts(texts, 99), FoldedTexts(texts[::-1], 99)
    assert all_grams(ahead.hash_characters(3, 5)) == all_grams(behind.hash_characters(3, 5))[::-1]
    assert hashed("ks ") in all_grams(ahead.hash_characters(3, 5))[1]
    assert lists(ahead.hash_words()) == lists(behind.hash_words())[::-1]


def test_runs_are_of_one_text_and_of_every_length():
    found = hash_word_runs(ragged([5, 6, 7], [], [5], [6, 7]), 3)
    assert [part.lengths.tolist() for part in found] == [[3, 0, 1, 2], [2, 0, 0, 1], [1, 0, 0, 0]]
    assert all_grams(found) == [
        sorted(polynomial(run, len(run)) for run in ([5], [6], [7], [5, 6], [6, 7], [5, 6, 7])),
        [],
        [polynomial([5], 1)],
        sorted(polynomial(run, len(run)) for run in ([6], [7], [6, 7])),
    ]


def test_grams_are_taken_joined_and_summed_text_by_text():
    ones, twos = hash_word_runs(ragged([5, 6, 7], [], [8], [9, 5]), 2)
    order = np.array([3, 1, 0])
    for grams in (ones, twos):
        [before], taken = [all_grams([grams])], grams.take(order)
        assert all_grams([taken]) == [before[at] for at in order]
        assert len(taken.hashes) == taken.lengths.sum()
        again = join_grams([taken, grams, grams.take(order[:0])])
        assert all_grams([again]) == all_grams([taken]) + before
    assert ones.sum_weights(np.array([1.0, 2, 4, 8, 16, 32])).tolist() == [7, 0, 8, 48]
    assert twos.sum_weights(np.array([1.0, 2, 100, 100, 16])).tolist() == [3, 0, 0, 16]  # 100: of two texts
    assert twos.take(order[1:2]).sum_weights(np.zeros(0)).tolist() == [0]


def test_lists_are_taken_compared_and_subtracted_row_by_row():
    a, b, c, d = map(key, (1, 2, 3, 4))
    left, right = ragged([a, b, a, c], [], [d, a], [b]), ragged([a, c, c], [a], [a, d], [])
    assert lists(left.take(np.array([2, -1, 0]))) == [[d, a], [], [a, b, a, c]]
    assert lists(ragged().take(np.array([-1]))) == [[]]
    assert left.lengths.tolist() == [4, 0, 2, 1] and left.rows().tolist() == [0, 0, 0, 0, 2, 2, 3]
    assert lists(left.unique()) == [[a, b, c], [], [a, d], [b]]
    assert count_shared(left.unique(), right.unique()).tolist() == [2, 0, 2, 0]
    assert lists(remove_known(left, right)) == [[b], [], [], [b]]
    assert lists(remove_known(left, ragged([], [], [], []))) == lists(left)


def test_common_ends_count_words_from_both_sides():
    left = ragged([1, 2, 3, 4], [1, 2], [1], [], [1, 1, 2])
    right = ragged([1, 2, 9, 9, 4], [1, 2], [2], [1], [1, 2])
    head, tail = count_common_ends(left, right)
    assert (head.tolist(), tail.tolist()) == ([2, 2, 0, 0, 1], [1, 2, 0, 0, 2])


def turns(*chats):
    """Read chats of (role, text)."""
    rows = [
        {"conversation_id": f"c{at}", "source": "t", "messages": [{"role": r, "content": c} for r, c in chat]}
        for at, chat in enumerate(chats)
    ]
    return read_turns(pa.Table.from_pylist(rows, schema=CONVERSATIONS).to_batches()[0], load_cues())


U, A = "user", "assistant"


@pytest.mark.parametrize("opening", [[], [(A, "Welcome to the garden")]])
def test_the_reply_before_and_the_message_before_are_of_the_same_conversation(opening):
    # Once the reply before a conversation's first one was the last reply of the conversation before.
    said = [(U, "A poem on roses"), (A, "Here is a poem on roses"), (U, "A poem on roses")]
    twice = [*said, (A, "Here is a poem on roses"), (U, "Another one")]
    found = turns(twice, [*opening, *said])
    number = dict(zip(found.names, found.numbers.T.tolist(), strict=True))
    first = 1 if opening else 0  # the greeting is a reply before, and its answer a turn
    assert found.frame.select("conversation_id", "turn").rows() == [
        ("c0", 2),
        ("c0", 4),
        *[("c1", 1)] * first,
        ("c1", 2 + first),
    ]
    assert number["redoing_kept"] == [MISSING, 1, *[MISSING] * first, 0 if opening else MISSING]
    assert number["before_kept"] == [1, 0, *[MISSING] * first, 1]
    assert number["earlier_kept"] == [MISSING, 0, *[MISSING] * first, MISSING]
    assert number["repeated_ago"] == [1, MISSING, *[MISSING] * first, 1]


def test_turns_read_in_parts_are_those_read_at_once():
    chats = [[(U, f"Say {n} words"), (A, "no " * n), (U, "wrong, " * n)] for n in range(5)]
    once, joined = turns(*chats), join_turns([turns(chats[0]), turns(*chats[1:])])
    assert joined.numbers.tolist() == once.numbers.tolist()
    for at in (np.arange(5), np.array([4, 0])):
        for field, parts in once.grams.items():
            wanted = [all_grams(parts)[row] for row in at]
            assert all_grams(joined.take(at).grams[field]) == wanted
    assert joined.frame["at"].to_list() == [*range(5)]
