"""`drift label --judge cascade`: the uncertain turns go over the wire or into request files, and no others."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drift_data.chats.order import SAMPLE, rank
from drift_data.llm.store import STORE_FILE, Store
from tests.helpers.known_model import write_known_model
from tests.helpers.label_runs import PRICES, Drift, write_chats, write_results
from tests.helpers.llm_server import Fault, LLMServer
from tests.helpers.scoring_model import asked_messages, scoring_answer

CHATS = {
    "a": ["Add 2 and 2", "5", "That is wrong", "4", "Thank you", "Welcome", "try again"],
    "b": ["Hello", "Hi"],
    "c": ["Write a poem", "Roses", "shorter please", "La la", "Bye"],
    "d": ["Hello there", "Hi", "How are you?"],
    "e": ["Draw a cat", "Meow", "I meant a dog", "Woof", "too long", "W", "Thanks"],
}
# The dsat_score by `known_model` of those between 2 and 8: 7, 7, 3, 7; of the others 8.5 and 0.1. The scripted model finds a sign in "again" only.
UNCERTAIN = {("a", 6): "DSAT", ("c", 2): "NEUTRAL", ("e", 2): "NEUTRAL", ("e", 4): "NEUTRAL"}
ASKED = [{2: "I meant a dog", 4: "too long"}, {2: "shorter please"}, {6: "try again"}]
NONE = ("--set", "label.cascade.low=4", "--set", "label.cascade.high=5")
ALL = ("--set", "label.cascade.low=0", "--set", "label.cascade.high=100")


class Known(Drift):
    """The command line with `known_model` as the local judge's classifier, whatever the shipped one says."""

    classifier: tuple[str, str]

    def __call__(self, stage: str, *arguments: object) -> tuple[int, str]:
        return super().__call__(stage, *arguments, *(self.classifier if stage == "label" else ()))


@pytest.fixture
def drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Known:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = Known(tmp_path / "work", monkeypatch, capsys)
    run.classifier = ("--set", f"label.classifier={write_known_model(tmp_path / 'known.npz')}")
    chats = write_chats(tmp_path / "chats.jsonl", CHATS)
    assert run("convert", "--source", "chat", "--input", chats)[0] == 0
    assert run("label", "--judge", "local", "--name", "local")[0] == 0
    return run


def cascade(drift: Known, server: LLMServer, *arguments: object) -> str:
    code, said = drift.label(server, *arguments, judge="cascade")
    assert code == 0, said
    return said


def asked(bodies: list[dict]) -> list[dict[int, str]]:
    return sorted(map(asked_messages, bodies), key=str)


def judges(drift: Known) -> dict[tuple[str, int], str]:
    rows = drift.workspace.read("labels/cascade").to_pylist()
    return {(row["conversation_id"].removeprefix("chat:"), row["turn"]): row["judge"] for row in rows}


def requests(drift: Known) -> dict[str, int]:
    return drift.workspace.require("labels/cascade").made_by["requests"]


def test_only_the_uncertain_turns_are_asked_about_and_the_others_are_the_local_judges(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        said = cascade(drift, server)
        assert asked(server.requests) == ASKED
    assert "5 conversations: 3 requests for 4 turns" in said
    local = drift.labels("local")
    assert len(local) == 9 and drift.labels("cascade") == local | UNCERTAIN
    assert list(drift.labels("cascade")) == list(local)  # in the same order
    assert {key for key, judge in judges(drift).items() if judge == "openai:test"} == UNCERTAIN.keys()
    rows = {judge: drift.workspace.read(f"labels/{judge}").to_pylist() for judge in ("local", "cascade")}
    kept = [row for row in rows["cascade"] if row["judge"].startswith("local:")]
    assert len(kept) == 5 and all(row in rows["local"] for row in kept)
    manifest = drift.workspace.require("labels/cascade")
    assert manifest.rows_in == 9 and manifest.dropped == {}
    assert manifest.made_by["labelled"] == {kept[0]["judge"]: 5, "openai:test": 4}
    assert manifest.made_by["requests"]["sent"] == 3 and manifest.made_by["price"]["now"] > 0
    assert manifest.options["judge_options"]["band"] == {"low": 2, "high": 8}


def test_a_second_run_is_up_to_date_and_other_thresholds_or_bands_ask_only_what_is_new(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        cascade(drift, server)
        assert "up to date" in cascade(drift, server)
        cascade(drift, server, "--set", "label.thresholds.dsat=9")
        assert server.received == 3 and "DSAT" not in drift.labels("cascade").values()
        cascade(drift, server, "--set", "label.cascade.low=4")  # "I meant a dog" has a local score of 3
        assert asked(server.requests[3:]) == [{4: "too long"}]
        assert requests(drift)["from_store"] == 2
        assert judges(drift)["e", 2].startswith("local:")
        cascade(drift, server)  # back to the first band
        assert server.received == 4 and requests(drift) | {"sent": 0} == requests(drift)


def test_with_nothing_uncertain_nothing_is_asked_and_no_key_is_needed(drift: Known) -> None:
    code, said = drift("label", "--judge", "cascade", "--model", "test", *NONE)  # of OpenAI itself
    assert code == 0 and "0 requests for 0 turns" in said
    assert drift.labels("cascade") == drift.labels("local") and requests(drift)["sent"] == 0


def test_something_uncertain_needs_a_key_and_leaves_no_table_without(drift: Known) -> None:
    code, said = drift("label", "--judge", "cascade", "--model", "test")
    assert code == 1 and "OPENAI_API_KEY" in said.splitlines()[-1]
    assert not drift.workspace.path("labels/cascade").exists()


def test_with_everything_uncertain_the_answers_are_those_of_the_llm_judge(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        assert drift.label(server)[0] == 0
        before = server.received
        cascade(drift, server, *ALL)
        assert server.received == before == 4
    assert requests(drift) == {"sent": 0, "from_store": 4, "failed": 0, "over_budget": 0}
    tables = [drift.workspace.read(f"labels/{judge}") for judge in ("openai", "cascade")]
    assert tables[0].equals(tables[1])
    code, said = drift("calibrate", "--labels", "cascade", "--against", "openai")
    assert code == 0 and "1.00" in said


def test_windows_of_a_long_conversation_that_are_uncertain_throughout_are_in_the_store(
    drift: Known, tmp_path: Path
) -> None:
    texts = ["Question"]
    for at in range(25):
        texts += [f"Answer {at}", f"I meant {at}" if at < 10 or at == 13 else "go on"]
    assert (
        drift("convert", "--source", "chat", "--input", write_chats(tmp_path / "x.jsonl", {"x": texts}))[0]
        == 0
    )
    with LLMServer(scoring_answer) as server:
        assert drift.label(server)[0] == 0 and server.received == 3
        said = cascade(drift, server)
        assert asked(server.requests[3:]) == [{28: "I meant 13"}]
    assert "1 requests for 1 turns, 1 more are answered already" in said
    assert requests(drift) | {"sent": 1, "from_store": 1} == requests(drift)
    assert [turn for (_, turn), judge in judges(drift).items() if judge == "openai:test"] == [
        *range(2, 22, 2),
        28,
    ]


def test_an_estimate_counts_what_is_then_sent(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        said = cascade(drift, server, "--estimate")
        assert server.received == 0 and not drift.workspace.path("labels/cascade").exists()
        found = re.search(r"([\d,]+) requests for ([\d,]+) turns; ([\d,]+) tokens in", said)
        assert found
        estimated = [int(number.replace(",", "")) for number in found.groups()]
        cascade(drift, server)
        turns = sum(map(len, map(asked_messages, server.requests)))
        assert estimated[:2] == [server.received, turns] == [3, 4]
        assert "0 requests for 0 turns, 3 more are answered already" in cascade(drift, server, "--estimate")
    tokens = drift.workspace.require("labels/cascade").made_by["tokens"]["input"]
    assert estimated[2] == pytest.approx(tokens, rel=0.05)


def test_a_budget_drops_uncertain_turns_only_and_more_money_goes_on_where_it_ended(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        one = ("--set", "label.client.connections=1")
        said = cascade(drift, server, "--budget", 0.023, *one)
        before = server.received
        assert 0 < before < 3 and "The budget ends here" in said
        manifest = drift.workspace.require("labels/cascade")
        assert manifest.dropped.keys() == {"over_budget"} and manifest.made_by["price"]["now"] <= 0.023
        left = drift.labels("cascade")
        assert left.keys() >= drift.labels("local").keys() - UNCERTAIN.keys()
        assert len(left) + manifest.dropped["over_budget"] == 9
        cascade(drift, server, "--budget", 5)
        assert drift.labels("cascade") == drift.labels("local") | UNCERTAIN and server.received == 3
    assert requests(drift) | {"sent": 3 - before, "from_store": before} == requests(drift)


def test_a_budget_counts_what_was_paid_for_these_turns_and_not_for_others(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        assert drift.label(server)[0] == 0  # other requests: about all turns of a conversation
        cascade(drift, server, "--budget", 0.1)
        first = drift.workspace.require("labels/cascade").made_by["price"]
        assert first["before"] == 0 and first["now"] > 0
        cascade(drift, server, "--name", "other", "--budget", 0.1)
    second = drift.workspace.require("labels/other").made_by["price"]
    assert second == {"now": 0, "before": first["now"], "budget": 0.1}


def test_a_budget_counts_answers_in_the_store_before_it_comes_upon_them(drift: Known, tmp_path: Path) -> None:
    chats = {name: ["Hello", "Hi", f"I meant {name}"] for name in "abcdefgh"}
    first = sorted(chats, key=lambda name: rank(name, SAMPLE))  # in a sample
    in_order = write_chats(tmp_path / "more.jsonl", {name: chats[name] for name in reversed(first)})
    assert drift("convert", "--source", "chat", "--input", in_order)[0] == 0
    with LLMServer(scoring_answer) as server:
        short = ("--set", "label.sampling.max_tokens=100", "--set", "label.client.connections=1")
        cascade(drift, server, "--sample", 2, *short)  # the last two of the table
        paid = drift.workspace.require("labels/cascade-sample").made_by["price"]["now"]
        cascade(drift, server, "--budget", paid + 0.0005, *short)  # no room for another request
        price = drift.workspace.require("labels/cascade").made_by["price"]
        assert server.received == 2 and price["now"] == 0 and price["before"] == pytest.approx(paid)


def test_a_run_that_failed_goes_on_from_the_store(drift: Known) -> None:
    broken = True

    def answer(body: dict, count: int) -> Fault | str:
        return Fault(401) if broken and server.received == 3 else scoring_answer(body)

    with LLMServer(answer) as server:
        code, _ = drift.label(server, "--set", "label.client.connections=1", judge="cascade")
        assert code == 1 and not drift.workspace.path("labels/cascade").exists()
        broken = False
        cascade(drift, server)
        assert server.received == 4
    assert requests(drift) | {"sent": 1, "from_store": 2} == requests(drift)
    assert drift.labels("cascade") == drift.labels("local") | UNCERTAIN


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_the_store(drift: Known) -> None:
    with LLMServer(scoring_answer, latency=0.5) as server:
        command = [sys.executable, "-m", "pipelines", "label", "--judge", "cascade", "--model", "test"]
        command += ["--base-url", server.base_url, "--work", str(drift.work)]
        command += ["--set", "label.client.connections=1", *drift.classifier]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while server.received < 2:
                assert process.poll() is None
            process.kill()
        assert not drift.workspace.path("labels/cascade").exists()
        cascade(drift, server)
        assert 3 <= server.received <= 4  # the one in flight is asked again
    assert requests(drift)["from_store"] >= 1
    assert drift.labels("cascade") == drift.labels("local") | UNCERTAIN


def test_a_sample_asks_only_of_its_conversations(drift: Known) -> None:
    with LLMServer(scoring_answer) as server:
        cascade(drift, server, "--sample", 3)
        some = drift.labels("cascade-sample")
        assert some.items() <= (drift.labels("local") | UNCERTAIN).items()
        uncertain = [key for key in some if key in UNCERTAIN]
        assert len(uncertain) == sum(map(len, map(asked_messages, server.requests)))


def test_request_files_hold_the_uncertain_turns_and_answers_come_back(drift: Known, tmp_path: Path) -> None:
    batch = ("--judge", "cascade", "--set", "label.cascade.llm=batch", "--model", "test", "--set", PRICES)
    code, said = drift("label", *batch, "--offline")
    assert code == 0 and "--results" in said and not drift.workspace.path("labels/cascade").exists()
    (file,) = drift.work.glob("batch/**/requests-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert asked([line["body"] for line in lines]) == ASKED
    code, said = drift(
        "label", *batch, "--results", write_results(tmp_path / "1.jsonl", lines[:2]), "--final"
    )
    assert code == 0 and "--again instead of --final" in said
    manifest = drift.workspace.require("labels/cascade")
    assert manifest.dropped.keys() == {"no_answer"}
    assert sum(manifest.made_by["labelled"].values()) + manifest.dropped["no_answer"] == 9
    late = write_results(tmp_path / "2.jsonl", lines[2:])
    assert drift("label", *batch, "--results", late)[0] == 0
    assert drift.labels("cascade") == drift.labels("local") | UNCERTAIN
    assert {judge for key, judge in judges(drift).items() if key in UNCERTAIN} == {"batch:test"}
    labelled = drift.workspace.require("labels/cascade").made_by["labelled"]
    assert sorted(labelled.values()) == [4, 5]  # of the last pass, not of all
    with Store(drift.work / STORE_FILE) as store, LLMServer(scoring_answer) as server:
        assert store.count() == 3
        cascade(drift, server)  # what files have answered is not asked over the wire
        assert server.received == 0


def test_labels_of_a_cascade_can_be_calibrated_decided_anew_and_mined(drift: Known, tmp_path: Path) -> None:
    gold = tmp_path / "gold.csv"
    truth = drift.labels("local") | UNCERTAIN
    gold.write_text(
        "conversation_id,turn,label\n"
        + "".join(f"{name},{turn},{label}\n" for (name, turn), label in truth.items())
    )
    with LLMServer(scoring_answer) as server:
        cascade(drift, server)
        code, said = drift("calibrate", "--gold", gold)
        assert code == 0 and "labels/cascade" in said, said
        cascade(drift, server, "--thresholds", drift.work / "quality/cascade/thresholds.yaml")
        assert server.received == 3
    assert drift("seed")[0] == 0
    assert drift.workspace.require("dsat").made_by == {"labels": "labels/cascade"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--judge cascade needs --model"),
        (("--model", "m", "--offline"), "--set label.cascade.llm=batch"),
        (("--set", "label.cascade.low=9"), r"label.cascade: Value error, low (9) must be below high (8)"),
        (("--set", "label.cascade.llm=local"), "label.cascade.llm"),
        (("--set", "label.cascade.llm=batch", "--model", "m"), "--offline"),
    ],
)
def test_what_is_missing_or_wrong_is_said(drift: Known, arguments: tuple[str, ...], word: str) -> None:
    code, said = drift("label", "--judge", "cascade", *arguments)
    assert code == 1 and word in said.splitlines()[-1], said


def test_another_rubric_than_the_local_judges_is_an_error(drift: Known, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.yaml"
    items = [{"name": name, "polarity": name, "definition": "d"} for name in ("SAT", "DSAT")]
    rubric.write_text(json.dumps({"name": "mine", "items": items}))
    code, said = drift("label", "--judge", "cascade", "--model", "m", "--rubric", rubric)
    assert code == 1 and "--rubric names mine" in said and len(said.strip().splitlines()) == 1
