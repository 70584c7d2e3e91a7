"""Bad rows are set aside with a reason and the run goes on; a file that is no such data set is one clear error."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drift_data.sources import json_rows
from drift_data.workspace import UserError, Workspace
from tests.helpers.converted import accounts, converted, dropped, reasons, rows
from tests.helpers.wildchat_schema import chat, wildchat_row, write_wildchat

GOOD = chat("What is DPO?", "A loss.", conversation_hash="good")


def messages(*pairs: tuple[str | None, str | None]) -> dict[str, Any]:
    return {"conversation": [{"role": role, "content": content} for role, content in pairs]}


U, A, S = ("user", "q"), ("assistant", "a"), ("system", "be brief")
BAD_CHATS = {
    "empty_conversation": {"conversation": []},
    "null_content": messages(U, A, ("user", None)),
    "unknown_role": messages(U, ("tool", "a")),
    "two_user_messages_in_a_row": messages(U, U, A),
    "two_assistant_messages_in_a_row": messages(U, A, A),
    "system_message_in_the_middle": messages(U, A, S, U),
    "does_not_start_with_user": messages(A, U, A),
    "empty_message": messages(U, ("assistant", " \n\t "), U),
    "no_reply": messages(U),
    "message_too_long": messages(U, ("assistant", "x" * 5_000_000)),
}


@pytest.mark.parametrize("reason", BAD_CHATS)
def test_malformed_chat_is_set_aside_with_its_reason(tmp_path: Path, reason: str) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [GOOD, BAD_CHATS[reason], chat("q2", "a2")])
    workspace = converted(tmp_path, "wildchat", path)
    assert reasons(workspace) == {"raw.parquet:1": reason}
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["What is DPO?", "q2"]
    assert accounts(workspace, 3)
    assert workspace.require("conversations").dropped == {reason: 1}


WORSE_CHATS = {
    "null conversation": ({"conversation": None}, "empty_conversation"),
    "null message": ({"conversation": [None, {"role": "assistant", "content": "a"}]}, "unknown_role"),
    "null role": (messages((None, "q"), A), "unknown_role"),
    "system message only": (messages(S), "no_reply"),
    "second system message": (messages(S, S, U, A), "system_message_in_the_middle"),
    "assistant after system": (messages(S, A, U, A), "does_not_start_with_user"),
}


@pytest.mark.parametrize("name", WORSE_CHATS)
def test_other_malformed_chats_are_set_aside(tmp_path: Path, name: str) -> None:
    bad, reason = WORSE_CHATS[name]
    workspace = converted(tmp_path, "wildchat", write_wildchat(tmp_path / "raw.parquet", [bad, GOOD]))
    assert reasons(workspace) == {"raw.parquet:0": reason}
    assert accounts(workspace, 2)


def test_well_formed_chats_of_all_forms_are_kept(tmp_path: Path) -> None:
    forms = [
        messages(S, U, A),
        messages(U, A, U),
        messages(S, U, A, U, A),
        messages(U, ("assistant", "x" * 100)),
    ]
    path = write_wildchat(tmp_path / "raw.parquet", forms)
    workspace = converted(tmp_path, "wildchat", path, deduplicate="off")
    assert [row["messages"] for row in rows(workspace)] == [form["conversation"] for form in forms]
    assert not dropped(workspace)


def test_message_length_is_counted_in_characters(tmp_path: Path) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [chat("é" * 10, "a"), chat("é" * 11, "a")])
    assert reasons(converted(tmp_path, "wildchat", path, max_message_chars=10)) == {
        "raw.parquet:1": "message_too_long"
    }


def test_a_5_mb_message_is_kept_when_the_limit_allows_it(tmp_path: Path) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [messages(U, ("assistant", "x" * 5_000_000))])
    (row,) = rows(converted(tmp_path, "wildchat", path, max_message_chars=6_000_000))
    assert len(row["messages"][1]["content"]) == 5_000_000


def with_bytes(path: Path, place: str, value: bytes) -> Path:
    """Write two chats; the first has these bytes in its content or in its model, where text is declared."""
    table = pa.Table.from_pylist([wildchat_row(chat("@@@@", "a", model="####")), wildchat_row(GOOD)])
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    raw = path.read_bytes()
    mark = {"content": b"@@@@", "model": b"####"}[place]
    assert raw.count(mark) == 1
    path.write_bytes(raw.replace(mark, value))
    return path


@pytest.mark.parametrize("place", ["content", "model"])
def test_text_that_is_no_utf8_is_set_aside(tmp_path: Path, place: str) -> None:
    path = with_bytes(tmp_path / "raw.parquet", place, b"a\xff\xfe\x80")
    workspace = converted(tmp_path, "wildchat", path)
    assert reasons(workspace) == {"raw.parquet:0": "invalid_utf8"}
    assert [row["conversation_id"] for row in rows(workspace)] == ["good"]
    assert accounts(workspace, 2)


def test_a_cut_off_parquet_file_is_one_clear_error(tmp_path: Path) -> None:
    write_wildchat(tmp_path / "raw" / "a.parquet", [GOOD])
    cut = write_wildchat(tmp_path / "raw" / "b.parquet", [chat("q2", "a2")])
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"b\.parquet is not a whole Parquet file"):
        converted(tmp_path, "wildchat", tmp_path / "raw")
    assert not (tmp_path / "work" / "conversations").exists()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"col1,col2\n1,2\n"])
def test_a_file_that_is_no_parquet_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raw.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"raw\.parquet is not a whole Parquet file"):
        converted(tmp_path, "wildchat", tmp_path / "raw.parquet")


def test_rows_of_a_damaged_row_group_are_set_aside_and_the_others_kept(tmp_path: Path) -> None:
    chats = [chat(f"question {i}", "a" * 50, conversation_hash=f"id{i}") for i in range(9)]
    path = write_wildchat(tmp_path / "raw.parquet", chats, row_group_size=3)
    group = pq.read_metadata(path).row_group(1)
    texts = next(
        c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema.endswith(".content")
    )
    raw = bytearray(path.read_bytes())
    start = texts.dictionary_page_offset or texts.data_page_offset
    raw[start : start + texts.total_compressed_size] = b"\x00" * texts.total_compressed_size
    path.write_bytes(raw)
    workspace = converted(tmp_path, "wildchat", path)
    assert [row["conversation_id"] for row in rows(workspace)] == ["id0", "id1", "id2", "id6", "id7", "id8"]
    assert reasons(workspace) == {f"raw.parquet:{i}": "unreadable_row_group" for i in (3, 4, 5)}
    assert accounts(workspace, 9)


def test_another_parquet_layout_is_one_clear_error_that_lists_the_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), tmp_path / "raw.parquet")
    with pytest.raises(
        UserError, match=r"layout of WildChat.*conversation\.role.*question \(string\), answer"
    ):
        converted(tmp_path, "wildchat", tmp_path / "raw.parquet")


def test_a_conversation_column_of_another_type_is_one_clear_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"conversation_hash": ["x"], "conversation": ["text"]}), tmp_path / "raw.parquet")
    with pytest.raises(UserError, match=r"conversation\.role, conversation\.content is missing"):
        converted(tmp_path, "wildchat", tmp_path / "raw.parquet")


def test_another_json_layout_is_one_clear_error_that_lists_the_keys(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(UserError, match=r"layout of chat logs.*messages.*keys: question, answer"):
        converted(tmp_path, "chat", tmp_path / "raw.jsonl")


def log_line(text: str) -> bytes:
    value = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]}
    return json.dumps(value, ensure_ascii=False).encode()


def test_bad_json_lines_are_set_aside_each_for_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", 1_000)
    lines = [
        log_line("one"),
        b'{"messages": [{"role": "user", "con',
        b"[1, 2]",
        log_line("x\xe9").replace("é".encode(), b"\xe9"),
        b"",
        log_line("x" * 5_000),
        b'{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]}',
        b"[" * 900,
        log_line("two"),
        b'{"no": "messages"}',
    ]
    (tmp_path / "raw.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    workspace = converted(tmp_path, "chat", tmp_path / "raw.jsonl")
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["one", "two"]
    assert reasons(workspace) == {
        "raw.jsonl:1": "broken_json",
        "raw.jsonl:2": "not_an_object",
        "raw.jsonl:3": "invalid_utf8",
        "raw.jsonl:5": "line_too_long",
        "raw.jsonl:6": "invalid_utf8",
        "raw.jsonl:7": "broken_json",
        "raw.jsonl:9": "no_messages",
    }
    assert accounts(workspace, sum(1 for line in lines if line))


def as_array(*texts: str) -> bytes:
    return b"[" + b",\n".join(map(log_line, texts)) + b"]"


def test_a_json_array_that_breaks_off_keeps_the_rows_before_and_one_row_for_the_break(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_bytes(as_array("one", "two", "three")[:-30])
    workspace = converted(tmp_path, "chat", tmp_path / "raw.json")
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["one", "two"]
    assert reasons(workspace) == {"raw.json:2": "broken_off"}
    assert "before byte" in dropped(workspace)[0]["excerpt"]
    assert accounts(workspace, 3)


def test_bad_bytes_inside_a_json_array_cost_only_their_row(tmp_path: Path) -> None:
    raw = as_array("one", "x\xe9y", "3\u00e9").replace("x\xe9y".encode(), b"x\xe9y")
    (tmp_path / "raw.json").write_bytes(raw)
    workspace = converted(tmp_path, "chat", tmp_path / "raw.json")
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["one", "3é"]
    assert reasons(workspace) == {"raw.json:1": "invalid_utf8"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"messages": [{"ro', r"holds no readable row.*raw\.json:0: broken_off"),
        (b'{"messages":', r"holds no readable row.*raw\.json:0: broken_json"),
        (b"question,answer\n", r"is no JSON: it begins with b'q'"),
        (b"PAR1\x00\x00", r"is no JSON"),
        (b"", r"not a single row"),
        (b"[]", r"not a single row"),
    ],
)
def test_a_json_file_without_a_readable_row_is_one_clear_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "raw.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        converted(tmp_path, "chat", tmp_path / "raw.json")
    assert Workspace(tmp_path / "work").manifest("conversations") is None


def test_a_cut_off_gzip_keeps_the_lines_before_the_break(tmp_path: Path) -> None:
    noise = random.Random(0)
    texts = [noise.randbytes(2_000).hex() for _ in range(50)]
    packed = gzip.compress(b"\n".join(map(log_line, texts)))
    (tmp_path / "raw.jsonl.gz").write_bytes(packed[: len(packed) * 3 // 4])
    workspace = converted(tmp_path, "chat", tmp_path / "raw.jsonl.gz")
    kept = rows(workspace)
    assert 20 < len(kept) < 50
    assert [row["messages"][0]["content"] for row in kept] == texts[: len(kept)]
    assert list(reasons(workspace).values()) == ["broken_off"]
    assert accounts(workspace, len(kept) + 1)


def test_a_gzip_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl.gz").write_bytes(b"not packed")
    with pytest.raises(UserError, match="cannot be unpacked"):
        converted(tmp_path, "chat", tmp_path / "raw.jsonl.gz")


def test_a_folder_without_data_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "README.md").write_text("no data")
    with pytest.raises(UserError, match="holds no data"):
        converted(tmp_path, "wildchat", tmp_path / "raw")


def test_a_column_of_another_type_is_one_clear_error(tmp_path: Path) -> None:
    raw = wildchat_row(GOOD) | {"toxic": "perhaps"}
    pq.write_table(pa.Table.from_pylist([raw]), tmp_path / "raw.parquet")
    with pytest.raises(UserError, match=r"layout of WildChat: a column has another type.*toxic \(string\)"):
        converted(tmp_path, "wildchat", tmp_path / "raw.parquet")


def test_bytes_declared_as_binary_are_checked_row_by_row(tmp_path: Path) -> None:
    message = pa.struct([("role", pa.string()), ("content", pa.binary())])
    layout = pa.schema([("conversation_hash", pa.string()), ("conversation", pa.list_(message))])
    talks = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": b"a"}]
        for text in (b"\xff", b"q")
    ]
    data = [{"conversation_hash": str(i), "conversation": talk} for i, talk in enumerate(talks)]
    pq.write_table(pa.Table.from_pylist(data, schema=layout), tmp_path / "raw.parquet")
    workspace = converted(tmp_path, "wildchat", tmp_path / "raw.parquet")
    assert reasons(workspace) == {"raw.parquet:0": "invalid_utf8"} and len(rows(workspace)) == 1


def test_a_time_beyond_the_calendar_costs_only_its_row(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    times = pa.array([0, 10**18], pa.timestamp("us"))
    pq.write_table(pa.table({"messages": [messages] * 2, "timestamp": times}), tmp_path / "raw.parquet")
    workspace = converted(tmp_path, "chat", tmp_path / "raw.parquet")
    assert reasons(workspace) == {"raw.parquet:1": "value_out_of_range"}
    assert accounts(workspace, 2)
