"""The written corpus: a bad line is one error that names its file and line, and none is read as something else."""

import pytest

from drift_data.judge.local.corpus import WrittenLabel, read_corpus, read_corpus_file
from drift_data.judge.rubric import load_rubric

ITEMS = {"DSAT:Style", "SAT:Praise"}
GOOD = "=== en poems\nU: Write a poem\nA: Roses are red\nU[DSAT Style 2]: Too short\n"


def read(folder, text):
    path = folder / "poems.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_corpus_file(path, ITEMS))


def test_a_file_is_read_with_places_labels_and_lines_that_go_on(tmp_path):
    text = (
        "\n\n=== de Gedichte über Ü \nU: Schreib\n\n  ein Gedicht\n\nA(refusal): Nein\nU[NEUTRAL]:\nUnd jetzt: U: 🤬\n\n"
        + GOOD
    )
    first, second = read(tmp_path, text)
    assert (first.name, first.language, first.topic) == ("poems.txt:3", "de", "Gedichte über Ü")
    assert first.messages == [
        {"role": "user", "content": "Schreib\n\n  ein Gedicht"},
        {"role": "assistant", "content": "Nein"},
        {"role": "user", "content": "\nUnd jetzt: U: 🤬"},
    ]
    assert (first.marks, first.refusals) == ({2: WrittenLabel("NEUTRAL")}, {1})
    assert (second.name, second.marks) == ("poems.txt:12", {2: WrittenLabel("DSAT", "Style", 2)})
    assert read(tmp_path, "") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello\n" + GOOD, "poems.txt:1: expected `=== language topic`, not 'Hello'"),
        ("\ufeff" + GOOD, "poems.txt:1: expected `=== language topic`, not '\\\\ufeff=== en poems'"),
        ("U: Hello\n" + GOOD, "poems.txt:1: a message before the first ==="),
        ("=== en poems\nHello\n", "poems.txt:2: expected `U:` after ===, not 'Hello'"),
        ("=== en poems\nA: Hello\n", "poems.txt:2: two messages of one side in a row"),
        (
            "=== en poems\nU[NEUTRAL]: Hello\n",
            "poems.txt:2: every user message but the first carries a label",
        ),
        ("=== en poems\nU: a\nA: b\nU: c\n", "poems.txt:4: every user message but the first carries a label"),
        ("=== en poems\nU: a\nU[NEUTRAL]: c\n", "poems.txt:3: two messages of one side in a row"),
        (GOOD + "A: b\nA: c\n", "poems.txt:6: two messages of one side in a row"),
        (GOOD.replace("Style", "Speed"), "poems.txt:4: the rubric has no DSAT item Speed"),
        (GOOD.replace("DSAT Style", "SAT Style"), "poems.txt:4: the rubric has no SAT item Style"),
        (GOOD.replace("Style 2", "Style 4"), "poems.txt:4: neither .* nor a message with a known label"),
        (GOOD.replace(" Style 2", ""), "poems.txt:4: neither"),
        (GOOD.replace("DSAT Style 2", "dsat"), "poems.txt:4: neither"),
        (GOOD.replace("]:", "] :"), "poems.txt:4: neither"),
        (GOOD.replace("A:", "A(refused):"), "poems.txt:3: neither"),
        (GOOD.replace("A:", "A :"), "poems.txt:3: neither"),
        (GOOD + "=== english poems\n", "poems.txt:5: neither"),
        (GOOD + "=== en\n", "poems.txt:5: neither"),
        (GOOD + "====\n", "poems.txt:5: neither"),
        (GOOD + "=== en none\n", "poems.txt:5: the conversation has no feedback turn"),
        ("=== en poems\nU: a\nA: b\n" + GOOD, "poems.txt:1: the conversation has no feedback turn"),
        (GOOD.replace(" Too short", "") + GOOD, "poems.txt:1: a message of this conversation is empty"),
        (GOOD.encode() + b"A: caf\xe9\n", "poems.txt:5: not UTF-8"),
        (GOOD.encode("utf-16"), "poems.txt:1: not UTF-8"),
    ],
)
def test_a_bad_line_is_one_error_with_its_place(tmp_path, text, said):
    with pytest.raises(ValueError, match="^" + said):
        read(tmp_path, text)


def test_all_that_ships_is_read_and_names_items_of_the_rubric():
    rubric = load_rubric()
    found = read_corpus({f"{rubric.polarities[item.name]}:{item.name}" for item in rubric.items})
    labels = [mark.label for example in found for mark in example.marks.values()]
    assert len({example.name for example in found}) == len(found) > 2_000
    assert len(labels) > 10_000 and set(labels) == {"SAT", "DSAT", "NEUTRAL"}
