import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drift_data import schema
from drift_data.convert import chats as chat_table
from drift_data.convert.options import CleanOptions
from drift_data.convert.stage import convert
from drift_data.simulate.wildchat import WILDCHAT_SCHEMA
from drift_data.workspace import AccountingError, UserError, Workspace
from tests.helpers.converted import accounts, converted, dropped, reasons, rows
from tests.helpers.wildchat_schema import chat, wildchat_row, write_wildchat

DIALOGUE = ("What is DPO?", "A loss.", "No, explain it.", "It compares two answers.")


def test_wildchat_rows_become_conversations_with_their_metadata(tmp_path: Path) -> None:
    raw = chat(*DIALOGUE, conversation_hash="abc", model="gpt-4", language="French", country="France")
    workspace = converted(tmp_path, "wildchat", write_wildchat(tmp_path / "raw.parquet", [raw]))
    (row,) = rows(workspace)
    assert row == {
        "conversation_id": "abc",
        "source": "wildchat",
        "model": "gpt-4",
        "timestamp": datetime(2023, 4, 9, 0, 2, 53, tzinfo=UTC),
        "language": "French",
        "country": "France",
        "toxic": False,
        "redacted": False,
        "messages": raw["conversation"],
    }
    assert pq.read_schema(workspace.shards("conversations")[0]).equals(schema.CONVERSATIONS)
    assert workspace.require("conversations").results["feedback_turns"] == 1


def test_ip_hashes_and_headers_are_left_behind(tmp_path: Path) -> None:
    raw = wildchat_row(chat(*DIALOGUE))
    raw["hashed_ip"], raw["header"]["user-agent"] = "f00d" * 16, "Agent-Of-Someone"
    pq.write_table(pa.Table.from_pylist([raw], schema=WILDCHAT_SCHEMA), tmp_path / "raw.parquet")
    workspace = converted(tmp_path, "wildchat", tmp_path / "raw.parquet")
    stored = b"".join(path.read_bytes() for path in workspace.root.rglob("*") if path.is_file())
    assert b"f00d" not in stored and b"Agent-Of-Someone" not in stored


def test_wildchat_48m_times_without_zone_are_utc_and_its_other_fields_are_ignored(tmp_path: Path) -> None:
    raw = wildchat_row(chat(*DIALOGUE))
    for message in raw["conversation"]:
        message |= {"usage": {"total_tokens": 3}, "temperature": 1.0, "openai_id": "x", "token_counter": 5}
        message["timestamp"] = None
    raw["timestamp"] = datetime(2025, 1, 2, 3, 4, 5)
    table = pa.Table.from_pylist([raw])
    assert table.schema.field("timestamp").type == pa.timestamp("us")
    pq.write_table(table, tmp_path / "raw.parquet")
    (row,) = rows(converted(tmp_path, "wildchat", tmp_path / "raw.parquet"))
    assert row["timestamp"] == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert row["messages"] == [{"role": m["role"], "content": m["content"]} for m in raw["conversation"]]


def test_older_wildchat_with_few_columns_is_read(tmp_path: Path) -> None:
    old = {"conversation_id": "old-1", "model": "gpt-3.5-turbo", "turn": 2, "language": "English"}
    table = pa.Table.from_pylist([old | {"conversation": chat(*DIALOGUE)["conversation"]}])
    pq.write_table(table, tmp_path / "raw.parquet")
    (row,) = rows(converted(tmp_path, "wildchat", tmp_path / "raw.parquet"))
    assert (row["conversation_id"], row["country"], row["toxic"]) == ("old-1", None, None)


def test_wildchat_as_large_lists_and_large_strings_is_read(tmp_path: Path) -> None:
    message = pa.struct([("role", pa.large_string()), ("content", pa.large_string())])
    layout = pa.schema([("conversation_hash", pa.large_string()), ("conversation", pa.large_list(message))])
    raw = {"conversation_hash": "big", "conversation": chat(*DIALOGUE)["conversation"]}
    pq.write_table(pa.Table.from_pylist([raw], schema=layout), tmp_path / "raw.parquet")
    (row,) = rows(converted(tmp_path, "wildchat", tmp_path / "raw.parquet"))
    assert row["messages"] == raw["conversation"]


def test_wildchat_as_json_lines_is_read(tmp_path: Path) -> None:
    raw = {"conversation_hash": "j", "timestamp": "2023-04-09T00:02:53Z", **chat(*DIALOGUE)}
    (tmp_path / "raw.jsonl").write_text(json.dumps(raw) + "\n")
    (row,) = rows(converted(tmp_path, "wildchat", tmp_path / "raw.jsonl"))
    assert row["timestamp"] == datetime(2023, 4, 9, 0, 2, 53, tzinfo=UTC)
    assert row["messages"] == raw["conversation"]


def test_lmsys_chat_is_toxic_when_any_message_was_flagged(tmp_path: Path) -> None:
    def raw(name: str, *flags: bool) -> dict[str, object]:
        moderation = [{"categories": {"hate": flag}, "flagged": flag} for flag in flags]
        return {
            "conversation_id": name,
            "model": "vicuna-13b",
            "conversation": [{"content": name, "role": "user"}, {"content": "b", "role": "assistant"}],
            "turn": 1,
            "language": "English",
            "openai_moderation": moderation,
            "redacted": True,
        }

    data = [raw("clean", False, False), raw("flagged", False, True)]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "raw.parquet")
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, data)))
    for name in ("raw.parquet", "raw.jsonl"):
        found = rows(converted(tmp_path / name.replace(".", ""), "lmsys", tmp_path / name))
        assert {row["conversation_id"]: row["toxic"] for row in found} == {"clean": False, "flagged": True}
        assert all(row["redacted"] and row["model"] == "vicuna-13b" for row in found)


def test_repeated_ids_get_suffixes_in_order_of_appearance_whatever_is_cleaned_away(tmp_path: Path) -> None:
    languages = ("French", "English", "French", "English")
    chats = [
        chat(f"q{i}", "a", conversation_hash="same", language=language)
        for i, language in enumerate(languages)
    ]
    chats.append(chat("another", "a", conversation_hash="same-2"))
    path = write_wildchat(tmp_path / "raw.parquet", chats)
    everything = {
        r["messages"][0]["content"]: r["conversation_id"] for r in rows(converted(tmp_path, "wildchat", path))
    }
    assert everything == {"q0": "same", "q1": "same-3", "q2": "same-4", "q3": "same-5", "another": "same-2"}
    english = rows(converted(tmp_path / "en", "wildchat", path, languages=("English",)))
    assert {r["messages"][0]["content"]: r["conversation_id"] for r in english}.items() <= everything.items()


def test_a_chat_without_id_gets_one_from_its_content(tmp_path: Path) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [chat("q", "a", conversation_hash=None)])
    again = write_wildchat(
        tmp_path / "again.parquet", [chat("x", "y"), chat("q", "a", conversation_hash=None)]
    )
    (row,) = rows(converted(tmp_path, "wildchat", path))
    assert row["conversation_id"].startswith("wildchat-")
    assert (
        rows(converted(tmp_path / "again", "wildchat", again))[1]["conversation_id"] == row["conversation_id"]
    )


def test_several_files_a_folder_and_a_glob_give_the_same_tables(tmp_path: Path) -> None:
    one = write_wildchat(tmp_path / "raw" / "a.parquet", [chat("q1", "a")])
    two = write_wildchat(tmp_path / "raw" / "sub" / "a.parquet", [chat("q2", "a"), chat("q3")])
    given = {
        "files": [one, two],
        "folder": [tmp_path / "raw"],
        "glob": [tmp_path / "raw" / "**" / "*.parquet"],
    }
    for name, inputs in given.items():
        workspace = converted(tmp_path / name, "wildchat", *inputs)
        assert [row["messages"][0]["content"] for row in rows(workspace)] == ["q1", "q2"]
        assert reasons(workspace) == {"sub/a.parquet:1": "no_reply"}
        assert set(workspace.require("conversations").files) == {"a.parquet", "sub/a.parquet"}


def test_the_same_input_and_options_are_not_converted_twice(tmp_path: Path) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [chat(*DIALOGUE)])
    workspace = Workspace(tmp_path / "work")
    assert convert(workspace, "wildchat", [str(path)], CleanOptions())
    assert not convert(workspace, "wildchat", [str(path)], CleanOptions())
    assert convert(workspace, "wildchat", [str(path)], CleanOptions(min_turns=2))
    write_wildchat(path, [chat(*DIALOGUE, model="other")])
    assert convert(workspace, "wildchat", [str(path)], CleanOptions(min_turns=2))


def test_a_lost_row_stops_the_stage_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_one(self: chat_table.ChatTable, *arguments: object) -> None:
        *others, good = arguments
        good[good.argmax()] = False  # after the drops were written: this row is nowhere
        keep(self, *others, good)

    keep = chat_table.ChatTable._write_kept
    monkeypatch.setattr(chat_table.ChatTable, "_write_kept", lose_one)
    path = write_wildchat(tmp_path / "raw.parquet", [chat("q1", "a"), chat("q2", "a"), chat("q3")])
    with pytest.raises(AccountingError, match="3 rows in, but 1 out and 1 dropped"):
        converted(tmp_path, "wildchat", path)
    assert not (tmp_path / "work" / "conversations").exists()


def test_the_account_from_outside_notices_a_lost_row(tmp_path: Path) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [chat("q1", "a"), chat("q2", "a"), chat("q3")])
    workspace = converted(tmp_path, "wildchat", path)
    assert accounts(workspace, pq.read_metadata(path).num_rows)
    shard = workspace.shards("conversations")[0]
    pq.write_table(pq.read_table(shard).slice(1), shard)
    assert not accounts(workspace, pq.read_metadata(path).num_rows)


def test_a_row_is_set_aside_with_its_place_its_id_and_its_beginning(tmp_path: Path) -> None:
    path = write_wildchat(tmp_path / "raw.parquet", [chat("q", "a"), chat("é" * 1000, conversation_hash="x")])
    assert dropped(converted(tmp_path, "wildchat", path)) == [
        {"location": "raw.parquet:1", "conversation_id": "x", "reason": "no_reply", "excerpt": "é" * 200}
    ]


def test_unknown_source_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SOURCE=sharegpt is not known.*wildchat, wildfeedback"):
        converted(tmp_path, "sharegpt", tmp_path)


@pytest.mark.parametrize("name", ["nothing.parquet", "no/such.jsonl", "*.parquet", "a/b/c"])
def test_an_input_that_is_not_there_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        converted(tmp_path, "wildchat", name)


def test_an_empty_input_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="INPUT= is empty"):
        converted(tmp_path, "wildchat")


def test_json_beside_parquet_is_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wildchat(tmp_path / "raw" / "a.parquet", [chat("q", "a")])
    (tmp_path / "raw" / "more.jsonl").write_text("{}")
    assert len(rows(converted(tmp_path, "wildchat", tmp_path / "raw"))) == 1
    assert "JSON files are left out: more.jsonl" in capsys.readouterr().err


def test_lmsys_times_as_numbers_are_read(tmp_path: Path) -> None:
    talk = [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}]
    data = [{"conversation_id": str(at), "conversation": talk, "tstamp": at} for at in (1.5, float("nan"))]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "raw.parquet")
    found = rows(converted(tmp_path, "lmsys", tmp_path / "raw.parquet", deduplicate="off"))
    assert [row["timestamp"] for row in found] == [datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC), None]
