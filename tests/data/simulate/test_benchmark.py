"""Benchmark logs: the stated shares and sizes, one schema, one seed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from drift_data.simulate.benchmark import BATCH_CONVERSATIONS, write_wildchat
from drift_data.simulate.users import THANKS
from drift_data.simulate.wildchat import WILDCHAT_SCHEMA

NUMBER = 4 * BATCH_CONVERSATIONS + 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("benchmark")
    return folder, write_wildchat(folder, NUMBER, seed=3, rows_per_file=2 * BATCH_CONVERSATIONS)


def test_files_hold_all_conversations_once_in_wildchats_schema(made: tuple[Path, dict[str, int]]) -> None:
    files = sorted(made[0].glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [
        2 * BATCH_CONVERSATIONS,
        2 * BATCH_CONVERSATIONS,
        100,
    ]
    assert all(pq.read_schema(file) == WILDCHAT_SCHEMA for file in files)
    ids = pq.read_table(made[0], columns=["conversation_hash"])["conversation_hash"].to_pylist()
    assert len(set(ids)) == NUMBER


def test_shares_are_the_papers(made: tuple[Path, dict[str, int]]) -> None:
    counts = made[1]
    assert sum(counts[kind] for kind in ("dsat_then_sat", "dsat", "sat", "neutral")) == NUMBER
    assert (counts["dsat_then_sat"] + counts["dsat"]) / NUMBER == pytest.approx(0.12, abs=0.01)
    assert (counts["dsat_then_sat"] + counts["sat"]) / NUMBER == pytest.approx(0.05, abs=0.007)
    assert counts["dsat_then_sat"] / NUMBER == pytest.approx(0.005, abs=0.002)


def test_the_counts_are_those_of_the_text(made: tuple[Path, dict[str, int]]) -> None:
    chats = pq.read_table(made[0], columns=["conversation"])["conversation"].to_pylist()
    assert sum(map(len, chats)) == made[1]["messages"]
    thanked = sum(any(m["content"].startswith(THANKS) for m in chat[2::2]) for chat in chats)
    assert thanked == made[1]["dsat_then_sat"] + made[1]["sat"]
    assert all([m["role"] for m in chat] == ["user", "assistant"] * (len(chat) // 2) for chat in chats)


def test_a_conversation_takes_about_two_kilobytes_on_the_disk(made: tuple[Path, dict[str, int]]) -> None:
    size = sum(file.stat().st_size for file in made[0].glob("*.parquet"))
    assert 1_600 < size / NUMBER < 2_600


def test_equal_seeds_write_equal_rows(made: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    write_wildchat(tmp_path / "same", BATCH_CONVERSATIONS, seed=3)
    write_wildchat(tmp_path / "other", BATCH_CONVERSATIONS, seed=4)
    first = pq.ParquetFile(sorted(made[0].glob("*.parquet"))[0]).read_row_group(0)
    assert pq.read_table(tmp_path / "same").equals(first)
    assert not pq.read_table(tmp_path / "other").equals(first)


def test_a_folder_that_holds_logs_is_not_written_over(made: tuple[Path, dict[str, int]]) -> None:
    with pytest.raises(FileExistsError, match="holds logs already"):
        write_wildchat(made[0], 10, seed=0)
