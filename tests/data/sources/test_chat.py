import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from drift_data.sources.chat import simplify_messages
from drift_data.sources.fields import parse_timestamp
from tests.helpers.converted import accounts, converted, reasons, rows

TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def write(tmp_path: Path, *chats: Any) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, chats)))
    return path


def u(content: Any = "q") -> dict[str, Any]:
    return {"role": "user", "content": content}


def a(content: Any = "a", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def roles_and_texts(*messages: dict[str, Any]) -> list[tuple[str | None, str | None]]:
    found, problem = simplify_messages(list(messages))
    assert problem is None and found is not None
    return [(message["role"], message["content"]) for message in found]


def test_own_logs_become_conversations_with_id_time_and_model(tmp_path: Path) -> None:
    log = {
        "id": "run-7",
        "created": 1_700_000_000,
        "model": "my-model",
        "language": "English",
        "messages": [{"role": "system", "content": "be brief"}, u(), a()],
    }
    (row,) = rows(converted(tmp_path, "chat", write(tmp_path, log)))
    assert (row["conversation_id"], row["model"], row["source"]) == ("run-7", "my-model", "chat")
    assert row["timestamp"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert row["messages"] == log["messages"]
    assert row["toxic"] is None and row["country"] is None


def test_a_log_without_any_metadata_gets_an_id_from_its_content(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": [u(), a()]}, {"messages": [u(), a()]}, {"messages": [u("b"), a()]})
    workspace = converted(tmp_path, "chat", path)
    ids = [row["conversation_id"] for row in rows(workspace)]
    assert len(set(ids)) == 2 and all(name.startswith("chat-") for name in ids)
    assert reasons(workspace) == {"log.jsonl:1": "duplicate"}


def test_sharegpt_rows_are_read(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (row,) = rows(converted(tmp_path, "chat", write(tmp_path, {"id": 7, "conversations": talk})))
    assert row["conversation_id"] == "7"
    assert row["messages"] == [u(), a()]


def test_developer_is_system_and_neighbouring_system_messages_are_joined() -> None:
    developer, system = {"role": "developer", "content": "one"}, {"role": "system", "content": "two"}
    assert roles_and_texts(developer, system, u())[:2] == [("system", "one\n\ntwo"), ("user", "q")]


def test_tool_traffic_is_left_out_and_the_texts_around_it_are_one_reply() -> None:
    found = roles_and_texts(
        u(),
        a("I look it up.", tool_calls=[TOOL_CALL]),
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        a(None, tool_calls=[TOOL_CALL]),
        {"role": "function", "name": "f", "content": {"x": 1}},
        a("It is 42."),
        u("No."),
    )
    assert found == [("user", "q"), ("assistant", "I look it up.\n\nIt is 42."), ("user", "No.")]


def test_two_replies_without_a_tool_between_them_stay_two(tmp_path: Path) -> None:
    workspace = converted(
        tmp_path, "chat", write(tmp_path, {"messages": [u(), a()]}, {"messages": [u(), a(), a("b")]})
    )
    assert reasons(workspace) == {"log.jsonl:1": "two_assistant_messages_in_a_row"}


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    answer = [{"type": "output_text", "text": "yes"}]
    assert roles_and_texts(u(parts), a(answer)) == [("user", "one\ntwo"), ("assistant", "yes")]


def test_refusals_are_replies() -> None:
    assert roles_and_texts(u(), a(None, refusal="I cannot."))[1] == ("assistant", "I cannot.")
    assert roles_and_texts(u(), a([{"type": "refusal", "refusal": "No."}]))[1] == ("assistant", "No.")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
UNUSABLE = {
    "content_not_text": [u([{"type": "text", "text": "what is it?"}, IMAGE]), a()],
    "message_not_an_object": ["q", "a"],
    "messages_not_a_list": "q",
    "no_messages": None,
    "unknown_role": [u(), {"role": "critic", "content": "x"}],
    "null_content": [u(), a(None)],
    "no_reply": [u(), a(None, tool_calls=[TOOL_CALL])],
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_log_that_is_no_chat_of_text_is_set_aside(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path, {"messages": [u(), a()]}, {"messages": UNUSABLE[reason]})
    workspace = converted(tmp_path, "chat", path)
    assert reasons(workspace) == {"log.jsonl:1": reason}
    assert accounts(workspace, 2)


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2024-05-06T07:08:09Z", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ("2024-05-06T07:08:09+02:00", datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)),
        ("2024-05-06 07:08:09", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ("yesterday", None),
        (True, None),
        ([2024], None),
        (1e300, None),
        (float("nan"), None),
    ],
)
def test_times_are_read_as_utc_or_left_out(value: Any, time: datetime | None) -> None:
    assert parse_timestamp(value) == time
