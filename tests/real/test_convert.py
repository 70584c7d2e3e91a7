"""Real WildChat conversations, written in WildChat-1M's own schema and converted; counted from outside."""

from pathlib import Path

import duckdb
import pytest

from drift_data.simulate.wildchat import WILDCHAT_SCHEMA
from drift_data.workspace import Workspace
from tests.helpers.converted import accounts, converted, reasons, rows
from tests.helpers.real_chats import DATA, LOGS, chats, needs_data
from tests.helpers.wildchat_schema import write_wildchat

PAIRS = DATA / "ultrafeedback" / "binarized_200.jsonl"

pytestmark = pytest.mark.real
needs_pairs = pytest.mark.skipif(not PAIRS.is_file(), reason="no pairs at ../shared/data/ultrafeedback")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    write_wildchat(tmp_path / "raw" / "train-00000-of-00001.parquet", chats(), row_group_size=100)
    return converted(tmp_path, "wildchat", tmp_path / "raw")


@needs_data
def test_every_real_conversation_is_kept_or_left_out_with_a_reason(
    workspace: Workspace, tmp_path: Path
) -> None:
    raw = str(tmp_path / "raw" / "*.parquet")
    out, left = (
        folder / "*.parquet"
        for folder in (workspace.path("conversations"), workspace.dropped_path("conversations"))
    )
    total, kept, dropped = (
        duckdb.sql(f"select count(*) from '{table}'").fetchall()[0][0] for table in (raw, out, left)
    )
    assert total == 360 == kept + dropped and accounts(workspace, total)
    # Which rows are gone, found from outside by their text, are those that are listed as left out.
    gone = duckdb.sql(
        f"""
        with raw as (select row_number() over () - 1 as place, [m.content for m in conversation] as texts
                     from read_parquet('{raw}')),
             kept as (select [m.content for m in messages] as texts from read_parquet('{out}'))
        select place from raw anti join kept using (texts)
        """
    ).fetchall()
    bad = {
        int(place.rsplit(":", 1)[1]) for place, reason in reasons(workspace).items() if reason != "duplicate"
    }
    assert {place for (place,) in gone} == bad


@needs_data
def test_real_texts_and_ids_arrive_unchanged(workspace: Workspace) -> None:
    raw = {chat["conversation_hash"]: chat for chat in chats()}
    found = rows(workspace)
    assert len(found) >= 340
    for row in found:
        original = raw[row["conversation_id"]]
        assert row["messages"] == [
            {"role": m["role"], "content": m["content"]} for m in original["conversation"]
        ]
        assert (row["model"], row["language"]) == (original["model"], original.get("language", "English"))


@needs_data
def test_the_raw_file_has_all_columns_of_wildchat(workspace: Workspace, tmp_path: Path) -> None:
    columns = duckdb.sql(f"describe select * from '{tmp_path}/raw/*.parquet'").fetchall()
    assert [column[0] for column in columns] == WILDCHAT_SCHEMA.names
    assert "hashed_ip" in columns[3][1] and "turn_identifier" in columns[3][1]


@needs_data
def test_real_logs_give_the_same_table_from_json_lines(workspace: Workspace, tmp_path: Path) -> None:
    again = converted(tmp_path / "json", "wildchat", LOGS)
    texts = [(row["conversation_id"], row["messages"]) for row in rows(workspace)]
    assert [(row["conversation_id"], row["messages"]) for row in rows(again)] == texts


@needs_pairs
def test_real_ultrafeedback_pairs_are_kept_or_left_out_with_a_reason(tmp_path: Path) -> None:
    workspace = converted(tmp_path, "ultrafeedback", PAIRS)
    total = duckdb.sql(f"select count(*) from read_json('{PAIRS}')").fetchall()[0][0]
    assert total == 200 and accounts(workspace, total, "preferences")
    found = rows(workspace, "preferences")
    assert len(found) >= 190
    assert all(row["score_chosen"] >= row["score_rejected"] for row in found)
