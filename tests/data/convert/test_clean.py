import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drift_data import schema
from drift_data.convert import near_duplicates as near
from drift_data.convert.clean import KeySet, hash_conversations, read_excluded_prompts
from drift_data.convert.options import CleanOptions
from drift_data.workspace import UserError
from tests.helpers.converted import accounts, converted, reasons, rows
from tests.helpers.wildchat_schema import chat, write_wildchat


def left_out(tmp_path: Path, chats: list[dict[str, Any]], **options: Any) -> dict[str, str]:
    workspace = converted(tmp_path, "wildchat", write_wildchat(tmp_path / "raw.parquet", chats), **options)
    assert accounts(workspace, len(chats))
    return {location.split(":")[1]: reason for location, reason in reasons(workspace).items()}


def test_defaults_drop_exact_repeats_only(tmp_path: Path) -> None:
    chats = [
        chat("q", "a"),
        chat("q", "a", model="other", toxic=True),
        chat("q", "b"),
        chat("q", "a", "q"),
        chat("qa", ""),
        chat("q", "a", toxic=True, language="French"),
    ]
    assert left_out(tmp_path, chats) == {"1": "duplicate", "4": "empty_message", "5": "duplicate"}


def test_where_messages_begin_and_who_speaks_tells_conversations_apart() -> None:
    def keys(*chats: list[tuple[str, str]]) -> list[int]:
        values = [[{"role": role, "content": content} for role, content in chat] for chat in chats]
        return hash_conversations(pa.array(values, schema.MESSAGES)).tolist()

    different = (
        [("user", "ab"), ("assistant", "c")],
        [("user", "a"), ("assistant", "bc")],
        [("user", "abc")],
        [("user", "abc"), ("assistant", "")],
        [("assistant", "ab"), ("user", "c")],
        [("user", "ab"), ("assistant", "c"), ("user", "")],
        [],
    )
    assert len(set(keys(*different))) == len(different)
    assert keys(*different)[3:5] == keys(*different[3:5])  # the same wherever it stands
    sliced = pa.array([[{"role": r, "content": c} for r, c in d] for d in different], schema.MESSAGES)[2:5]
    assert hash_conversations(sliced).tolist() == keys(*different)[2:5]


def test_a_repeat_of_a_dropped_conversation_is_no_duplicate(tmp_path: Path) -> None:
    chats = [chat("q", "a", language="French"), chat("q", "a", language="English")]
    assert left_out(tmp_path, chats, languages=("English",)) == {"0": "language"}


def test_duplicates_stay_when_switched_off(tmp_path: Path) -> None:
    assert left_out(tmp_path, [chat("q", "a"), chat("q", "a")], deduplicate="off") == {}


def test_duplicates_are_found_across_files_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drift_data.sources.parquet.MAX_BATCH_ROWS", 7)
    chats = [chat(f"q{i % 25}", "a") for i in range(100)]
    write_wildchat(tmp_path / "raw" / "a.parquet", chats[:60])
    write_wildchat(tmp_path / "raw" / "b.parquet", chats[60:])
    workspace = converted(tmp_path, "wildchat", tmp_path / "raw")
    assert [row["messages"][0]["content"] for row in rows(workspace)] == [f"q{i}" for i in range(25)]
    assert len(reasons(workspace)) == 75


def test_language_is_compared_without_case_and_a_missing_one_stays(tmp_path: Path) -> None:
    languages = ("English", "english", "French", None)
    chats = [chat(f"q{i}", "a", language=language) for i, language in enumerate(languages)]
    assert left_out(tmp_path, chats, languages=("ENGLISH",)) == {"2": "language"}


def test_toxic_rows_leave_when_asked(tmp_path: Path) -> None:
    chats = [chat("q1", "a", toxic=True), chat("q2", "a")]
    assert left_out(tmp_path, chats, drop_toxic=True) == {"0": "toxic"}
    assert left_out(tmp_path / "kept", chats) == {}


def test_minimum_turns_counts_replies(tmp_path: Path) -> None:
    chats = [chat("q", "a", "q2"), chat("q", "a", "q2", "a2"), chat("q")]
    assert left_out(tmp_path, chats, min_turns=2) == {"0": "too_few_replies", "2": "no_reply"}


WORDS = [f"word{i}" for i in range(60)]


def text(changed: int = 0) -> str:
    """Return 60 words, the last so many of them others."""
    return " ".join(WORDS[: 60 - changed] + [f"other{i}" for i in range(changed)])


def test_near_duplicates_leave_and_the_first_stays(tmp_path: Path) -> None:
    chats = [
        chat(text(), "a"),
        chat(text(2), "a"),  # 57 of 62 word 3-grams: similarity 0.9
        chat(text(30), "a"),  # similarity 0.3
        chat(text().upper(), "a"),
        chat(" ".join(reversed(WORDS)), "a"),
        chat("short", "a"),
        chat("other", "a"),
        chat("short", "a"),
    ]
    assert left_out(tmp_path, chats, deduplicate="near") == {
        "1": "near_duplicate",
        "3": "near_duplicate",
        "7": "duplicate",
    }
    assert left_out(tmp_path / "exact", chats) == {"7": "duplicate"}


def test_near_duplicates_are_found_in_scripts_without_spaces(tmp_path: Path) -> None:
    poem = "".join(chr(0x4E00 + 37 * i) for i in range(80))
    chats = [chat(poem, "好"), chat(poem[:-1] + "新", "好"), chat(poem[:30] + poem[60:], "好")]
    assert left_out(tmp_path, chats, deduplicate="near") == {"1": "near_duplicate"}


def test_near_duplicates_do_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = [chat(f"{text(i % 40)} {i // 40}", f"a{i}") for i in range(120)]
    whole = left_out(tmp_path / "whole", chats, deduplicate="near")
    monkeypatch.setattr("drift_data.sources.parquet.MAX_BATCH_ROWS", 11)
    assert left_out(tmp_path / "parts", chats, deduplicate="near") == whole
    monkeypatch.setattr("drift_data.convert.near_duplicates._BYTES_AT_ONCE", 1_000)
    assert left_out(tmp_path / "few", chats, deduplicate="near") == whole
    assert 30 < len(whole) < 118


def test_words_of_few_bytes_are_python_objects_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_BYTES_AT_ONCE", 10)
    monkeypatch.setattr(near, "_CONVERSATIONS_AT_ONCE", 3)
    texts = ["x" * size for size in (4, 4, 99, 4, 25, 1, 1, 1, 1)]
    messages = pa.array([[{"role": "user", "content": text}] for text in texts], schema.MESSAGES)
    flagged = np.array([0, 1, 3, 4, 5, 6, 7, 8])
    parts = np.split(flagged, near._find_cuts(messages, flagged))
    assert [part.tolist() for part in parts] == [[0, 1], [3], [4], [5, 6, 7], [8]]


PROMPT_FILES = {
    "bench.txt": "Write a poem.\n\nanother\n",
    "bench.json": json.dumps(["Write a poem.", "another"]),
    "strings.jsonl": '"Write a poem."\n"another"\n',
    "separators.jsonl": '"Write a poem."\r\n"another\u2028\x85one"\r\n',
    "alpaca.json": json.dumps([{"instruction": "Write a poem."}]),
    "wildbench.jsonl": json.dumps(
        {"session_id": "1", "conversation_input": [{"role": "user", "content": "Write a poem."}]}
    ),
}


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_conversations_that_begin_with_an_evaluation_prompt_leave(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PROMPT_FILES[name])
    system = [{"role": "system", "content": "x"}, *chat("WRITE a  poem.", "b")["conversation"]]
    chats = [
        chat("Write a poem.", "a"),
        chat("write a\npoem. ", "a", "more"),
        {"conversation": system},
        chat("Write a poem. Now!", "a"),
        chat("q", "a", "Write a poem."),
    ]
    found = left_out(tmp_path, chats, exclude_prompts=str(tmp_path / name))
    assert found == dict.fromkeys("012", "evaluation_prompt")


def test_a_changed_file_of_evaluation_prompts_converts_anew(tmp_path: Path) -> None:
    from drift_data.convert.stage import convert
    from drift_data.workspace import Workspace

    raw = write_wildchat(tmp_path / "raw.parquet", [chat("q", "a"), chat("q2", "a")])
    prompts, options = tmp_path / "p.txt", CleanOptions(exclude_prompts=str(tmp_path / "p.txt"))
    prompts.write_text("something")
    workspace = Workspace(tmp_path / "work")
    assert convert(workspace, "wildchat", [str(raw)], options)
    assert not convert(workspace, "wildchat", [str(raw)], options)
    prompts.write_text("q2")
    assert convert(workspace, "wildchat", [str(raw)], options)
    assert reasons(workspace) == {"raw.parquet:1": "evaluation_prompt"}


def test_evaluation_prompts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": 1, "answer": "x"}')
    with pytest.raises(UserError, match=r"row 0 .*no prompt: an object with id, answer"):
        read_excluded_prompts(tmp_path / "p.jsonl")
    (tmp_path / "p.json").write_text("[")
    with pytest.raises(UserError, match="is no json"):
        read_excluded_prompts(tmp_path / "p.json")
    with pytest.raises(UserError, match="there is no file"):
        left_out(tmp_path, [chat("q", "a")], exclude_prompts=str(tmp_path / "absent.txt"))


def test_unknown_options_and_wrong_values_are_refused() -> None:
    for wrong in ({"language": "English"}, {"deduplicate": "fuzzy"}, {"min_turns": 0}, {"near_threshold": 0}):
        with pytest.raises(ValidationError):
            CleanOptions.model_validate(wrong)


@given(st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=20))
def test_key_set_tells_new_keys_from_known_ones_as_a_set_does(batches: list[list[int]]) -> None:
    keys, known = KeySet(), set[int]()
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(key not in known)
            known.add(key)
        assert keys.add(np.array(batch, dtype=np.uint64)).tolist() == expected
    assert len(keys) == len(known)
