"""Requests and answers as the view `requests` of a workspace."""

import pytest

from drift_data.llm.request import Answer, Request, Sampling, Schema
from drift_data.llm.store import STORE_FILE, Store
from drift_data.query.query import run_query
from drift_data.workspace import UserError, Workspace


def ask(store: Store, number: int) -> None:
    schema = Schema("s", {"type": "object"}) if number % 2 else None
    request = Request("the rubric", f"chat {number}", Sampling(model="m"), schema, "score")
    answer = Answer("{}", input_tokens=10 * number, output_tokens=1, price=0.5)
    store.put(request, answer, backend="openai", seconds=0.1)


def test_requests_can_be_queried_more_than_once_in_one_query(tmp_path):
    with Store(tmp_path / STORE_FILE) as store:
        for number in range(2_500):
            ask(store, number)
        workspace = Workspace(tmp_path)
        one, two = "count(*), sum(input_tokens), sum(price)", "count(DISTINCT system), count(schema)"
        rows = run_query(workspace, f"SELECT {one}, {two} FROM requests").to_pylist()
        assert list(rows[0].values()) == [2_500, 10 * 2_499 * 1_250, 1_250.0, 1, 1_250]
        joined = "SELECT count(*) AS n FROM requests a JOIN requests b USING (key) WHERE a.user = 'chat 7'"
        assert run_query(workspace, joined).to_pylist() == [{"n": 1}]


def test_answers_that_come_while_a_query_is_open_do_not_disturb_it(tmp_path):
    with Store(tmp_path / STORE_FILE) as store:
        ask(store, 1)
        workspace = Workspace(tmp_path)
        assert run_query(workspace, "FROM requests").num_rows == 1
        ask(store, 2)
        assert run_query(workspace, "FROM requests").num_rows == 2


def test_without_a_store_the_view_is_missing_and_the_error_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="make label JUDGE=openai"):
        run_query(Workspace(tmp_path), "SELECT * FROM requests")
