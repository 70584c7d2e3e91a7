"""The net: finished work stays finished. A workspace made by an earlier commit is held up against this one.

`workspace/` was made by `make_workspace.py` at commit 2efd463 with `commands.yaml`; `kept.json` holds what that commit
computed. A red test says that somebody's finished labels or models would be made, or paid for, once more: mend the
code, not the net. `python tests/net/test_net.py` writes `kept.json` anew, for a change that is meant.

New options, resources and columns may come; what is kept must stay. The code is called by its command line and by
`Workspace` alone, whose modules keep their names. Only the recipe's options are read from `pipelines.recipe`.
"""

import hashlib
import inspect
import json
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel

import pipelines.__main__ as cli
from drift_data.workspace import Workspace
from tests.helpers.llm_server import LLMServer
from tests.helpers.scoring_model import scoring_answer

NET = Path(__file__).parent
ROOT = NET.parents[1]
FIXTURE, KEPT = NET / "workspace", NET / "kept.json"
PACKAGES = ("drift_data", "drift_train", "pipelines")
RECIPES = ("demo", "paper-7b", "paper-14b", "ultrafeedback-7b")
STORE = "judge.sqlite"
# Tables of the sampling rule of 2efd463; a later rule draws other conversations.
SAMPLES = ("labels/openai-sample", "labels/paid-sample")
PAID = 12  # conversations of labels/paid-sample that were asked for
# Written beside a result for people to read, or by every call: no part of what is finished.
REWRITTEN = {"README.md", "report.html", ".lock", "judge.sqlite", "judge.sqlite-wal", "judge.sqlite-shm"} | {
    f"review.sqlite{ending}" for ending in ("", "-wal", "-shm")
}
# Folders made without training, and the commands that make them.
CHEAP = ("simulated", "conversations", "preferences", "labels", "quality", "dsat", "sat", "seed")
# Figures are compared; what is said about them to people may be said better.
PROSE = {"notes", "note", "title"}
ELSEWHERE = "WORK"  # in a command: the workspace's folder

Call = dict[str, Any]  # of Workspace.run


def commands() -> list[str]:
    """Return the commands that made the workspace, in order."""
    return [str(command) for command in yaml.safe_load((NET / "commands.yaml").read_text())]


def drift(work: Path, command: str, server: LLMServer | None = None, recipe: Path = NET / "net.yaml") -> None:
    """Run one command of the tool on a workspace; it must succeed."""
    words = shlex.split(command.replace(ELSEWHERE, str(work)))
    words += ["--work", str(work)] + ([] if words[0] == "query" else ["--recipe", str(recipe)])
    if words[0] in ("label", "rubric") and server is not None and "batch" not in words:
        words += ["--base-url", server.base_url]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setattr(sys, "argv", ["drift", *words])
        assert cli.main() == 0, command


def recorded(work: Path, command: str, server: LLMServer | None = None) -> list[Call]:
    """Run a command and return what it asked of `Workspace.run`, and whether something was made."""
    calls: list[Call] = []
    run = Workspace.run

    def watched(*args: Any, **kwargs: Any) -> bool:
        bound = inspect.signature(run).bind(*args, **kwargs)
        bound.apply_defaults()
        asked = bound.arguments
        call = {
            "stage": asked["stage"],
            "outputs": list(asked["outputs"]),
            "options": json.loads(json.dumps(asked["options"], sort_keys=True, default=str)),
            "inputs": sorted(asked["inputs"]),
            "files": dict(asked["files"] or {}),
        }
        calls.append(call)
        made = run(*args, **kwargs)
        call["made"] = made
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "run", watched)
        drift(work, command, server)
    return calls


def manifests(work: Path) -> dict[str, dict[str, Any]]:
    """Return folder → manifest."""
    found = sorted(work.rglob("manifest.json"))
    return {path.parent.relative_to(work).as_posix(): json.loads(path.read_text()) for path in found}


def contents(work: Path) -> dict[str, str]:
    """Return file → sha256 of all that is finished."""
    paths = (path for path in sorted(work.rglob("*")) if path.is_file() and path.name not in REWRITTEN)
    return {path.relative_to(work).as_posix(): sha256(path.read_bytes()) for path in paths}


def content_digest(folder: Path) -> str:
    """Return the digest that a manifest gives of its folder: names and bytes but of itself and of the card."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("manifest.json", "README.md"):
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{sha256(path.read_bytes())}\n".encode())
    return total.hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored_requests(work: Path) -> dict[str, str]:
    """Return request key → its purpose and model, of the store."""
    with sqlite3.connect(work / STORE) as database:
        rows = database.execute("SELECT key, purpose, model FROM answers ORDER BY key").fetchall()
    database.close()
    return {key: f"{purpose} {model}" for key, purpose, model in rows}


def computed_requests(work: Path) -> dict[str, dict[str, str]]:
    """Return what is asked about the conversations of a workspace: request file → key → digest of the whole line.

    The files of the Batch API are written into a workspace without answers, by the code of today.
    """
    found = {}
    for kind, command in {
        "score": "label --judge batch --model test --offline",
        "window": "label --judge batch --model test --offline --set label.score.window.turns=1 --set label.score.window.context=1",
        "cascade": "label --judge cascade --model test --offline --set label.cascade.llm=batch",
        "extract": "rubric --judge batch --model test --labels simulated --offline",
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            apart = Path(folder)
            for name in ("conversations", "simulated", "labels/simulated", "dropped/conversations"):
                if (work / name).is_dir():
                    shutil.copytree(work / name, apart / name)
            drift(apart, command)
            for path in sorted((apart / "batch").rglob("*.jsonl")):
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                found[f"{kind}: {path.relative_to(apart).as_posix()}"] = {
                    line["custom_id"]: sha256(json.dumps(line, sort_keys=True).encode())[:16]
                    for line in lines
                }
    return found


def views(work: Path) -> dict[str, Any]:
    """Return view → its columns and number of rows, as a person queries them."""

    def asked(sql: str) -> list[dict[str, Any]]:
        out = work.parent / "views.json"
        drift(work, f"query --out {shlex.quote(str(out))} --sql {shlex.quote(sql)}")
        return json.loads(out.read_text())

    columns = asked(
        "SELECT table_name AS v, column_name AS c, data_type AS t FROM information_schema.columns ORDER BY 1, 2"
    )
    found: dict[str, Any] = {}
    for row in columns:
        found.setdefault(row["v"], {"columns": {}})["columns"][row["c"]] = row["t"]
    counts = asked(
        " UNION ALL ".join(f"SELECT '{name}' AS v, count(*) AS n FROM \"{name}\"" for name in found)
    )
    for row in counts:
        found[row["v"]]["rows"] = row["n"]
    return found


def options() -> dict[str, str]:
    """Return dotted key → default, as JSON, of every option that a recipe may have."""
    from pipelines.recipe import Recipe

    return dict(flattened(Recipe, None))


def flattened(kind: type[BaseModel], value: BaseModel | None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the options of a group; those of an inner group that is not set by default, too."""
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        default = "required"
        held: Any = None
        if value is not None or not field.is_required():
            held = field.get_default(call_default_factory=True) if value is None else getattr(value, name)
            plain = held.model_dump(mode="json") if isinstance(held, BaseModel) else held
            default = json.dumps(plain, sort_keys=True, default=str)
        if isinstance(held, BaseModel):
            yield from flattened(type(held), held, f"{key}.")
            continue
        yield key, default
        for inner in models_in(field.annotation):
            yield from flattened(inner, None, f"{key}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the groups of options that an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def recipes() -> dict[str, dict[str, Any]]:
    """Return each shipped recipe's options as they resolve, its prose left out."""
    from pipelines.recipe import load_recipe

    loaded = {name: load_recipe(name).model_dump(mode="json") for name in RECIPES}
    return {name: {k: v for k, v in values.items() if k != "description"} for name, values in loaded.items()}


def resources() -> dict[str, str]:
    """Return name → digest of each file that is packaged beside the code, wherever it lies; prose only by its name.

    YAML is compared by its values and SQL without its remarks.
    """
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if not path.is_file() or path.suffix in (".py", ".pyc") or path.parent.name == "recipes":
                continue
            if path.suffix in (".npz", ".txt") or path.parent.name == "prompts":
                name, content = path.name, path.read_bytes()
            elif path.suffix == ".sql":
                lines = (line.split("--")[0].split() for line in path.read_text().splitlines())
                name, content = path.name, " ".join(word for line in lines for word in line).encode()
            elif (
                path.name in ("rubric.yaml", "cues.yaml", "shipped.yaml") or path.parent.name == "accelerate"
            ):
                values = list(yaml.safe_load_all(path.read_text()))
                name, content = path.name, json.dumps(values, sort_keys=True, default=str).encode()
            else:
                name, content = path.name, b""
            found[name] = sha256(content)[:16] if content else ""
    return found


def without(call: Mapping[str, Any], *names: str) -> Call:
    return {name: value for name, value in call.items() if name not in names}


def kept_of(work: Path) -> dict[str, Any]:
    """Return what `kept.json` holds."""
    return {
        "contents": sha256(json.dumps(contents(FIXTURE), sort_keys=True).encode()),
        "calls": {command: [without(c, "made") for c in recorded(work, command)] for command in commands()},
        "stored_requests": stored_requests(FIXTURE),
        "computed_requests": computed_requests(FIXTURE),
        "views": views(work),
        "options": options(),
        "recipes": recipes(),
        "resources": resources(),
    }


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return json.loads(KEPT.read_text())


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURE, tmp_path / "work")


@pytest.fixture
def server() -> Iterator[LLMServer]:
    """A language model that costs money: what it receives is counted."""
    with LLMServer(scoring_answer) as server:
        yield server


def is_sampled(command: str) -> bool:
    return "--sample" in command


def remove(work: Path, names: Iterable[str]) -> None:
    for name in names:
        shutil.rmtree(work / name)
        shutil.rmtree(work / "dropped" / name, ignore_errors=True)


def test_the_workspace_is_the_one_that_was_kept(kept: dict[str, Any]) -> None:
    assert sha256(json.dumps(contents(FIXTURE), sort_keys=True).encode()) == kept["contents"]
    workspace = Workspace(FIXTURE)
    for name, manifest in manifests(FIXTURE).items():
        assert workspace.require(name).digest == manifest["digest"] == content_digest(FIXTURE / name), name


def test_nothing_that_is_finished_is_made_again(work: Path, kept: dict[str, Any], server: LLMServer) -> None:
    before = contents(work)
    made_at = {name: (work / name).stat().st_ino for name in before}
    for command in commands():
        if is_sampled(command):
            continue
        calls = recorded(work, command, server)
        made = [call["outputs"] for call in calls if call["made"]]
        assert not made, f"drift {command} made {made} again"
        assert [without(call, "made") for call in calls] == kept["calls"][command], command
    assert contents(work) == before and server.received == 0
    assert {name: (work / name).stat().st_ino for name in before} == made_at


def test_manifests_say_what_the_stages_say(kept: dict[str, Any]) -> None:
    """Stage names are no part of what makes a folder current, so nothing else would notice another one."""
    found = manifests(FIXTURE)
    for calls in kept["calls"].values():
        for call in calls:
            for name in call["outputs"]:
                manifest = found[name]
                wanted = [call["stage"], call["options"], call["inputs"], call["files"]]
                assert [
                    manifest["stage"],
                    manifest["options"],
                    sorted(manifest["inputs"]),
                    manifest["files"],
                ] == wanted


def test_labels_and_rubrics_that_are_deleted_come_back_without_a_request(
    work: Path, server: LLMServer
) -> None:
    before = manifests(work)
    asked = [c for c in commands() if ("label" in c and "local" not in c) or c.startswith("rubric")]
    asked = [c for c in asked if c.split()[0] in ("label", "rubric") and "--name paid" not in c]
    names = {name for name in before if name.startswith(("labels/", "rubric/"))}
    lost = names - {"labels/paid-sample", "labels/simulated", "labels/shuffled", "labels/human-ann"}
    lost -= {"labels/local", "labels/local-taught"}
    remove(work, lost)
    keys = stored_requests(work)
    for command in asked:
        drift(work, command, server)
    assert server.received == 0 and stored_requests(work) == keys
    after = manifests(work)
    assert after.keys() == before.keys()
    for name in lost - {*SAMPLES}:
        same = ("stage", "options", "inputs", "files", "rows_in", "rows_out", "dropped", "results", "digest")
        assert {n: after[name][n] for n in same} == {n: before[name][n] for n in same}, name
        assert after[name]["made_by"].get("requests", {}).get("sent", 0) == 0, name


def test_answers_to_files_that_went_out_earlier_are_still_answers(work: Path) -> None:
    before = manifests(work)["labels/batch"]
    remove(work, ["labels/batch"])
    (work / STORE).unlink()
    (command,) = (command for command in commands() if "--results" in command)
    drift(work, command)
    assert manifests(work)["labels/batch"]["digest"] == before["digest"]


def test_a_sample_of_the_earlier_rule_can_be_used_and_a_larger_one_has_what_was_paid_for(
    work: Path, server: LLMServer
) -> None:
    sampled = Workspace(work).require("labels/paid-sample")
    paid = sampled.made_by["requests"]["sent"]
    drift(work, "seed --labels paid-sample")
    drift(work, "calibrate --labels paid-sample --against openai")
    drift(work, f"label --judge openai --model paid --name paid --sample {2 * PAID}", server)
    requests = Workspace(work).require("labels/paid-sample").made_by["requests"]
    assert paid > 0 and requests["from_store"] == paid and requests["sent"] == server.received > 0


def test_what_is_made_without_training_comes_out_as_it_was(work: Path) -> None:
    before = manifests(work)
    made = [
        c for c in commands() if c.split()[0] in ("simulate", "convert", "calibrate", "seed") or "local" in c
    ]
    made = [c for c in made if "human" not in c and "batch" not in c and "distill" not in c] + [
        "label --judge dataset --name given",
        "label --judge cascade --model test",
        "calibrate --labels openai --against batch",
        "calibrate --labels openai --gold human:ann",
    ]
    lost = [name for name in before if name.split("/")[0] in CHEAP and not name.startswith("labels/")]
    lost += [f"labels/{name}" for name in ("simulated", "local", "given", "local-taught", "cascade")]
    remove(work, lost)
    for command in [c for stage in ("simulate", "convert", "label", "") for c in made if c.startswith(stage)]:
        drift(work, command)
    after = manifests(work)
    assert after.keys() == before.keys()
    same = ("stage", "options", "inputs", "files", "rows_in", "rows_out", "dropped")
    for name in lost:
        assert {n: after[name][n] for n in same} == {n: before[name][n] for n in same}, name
        kept_files, files = ([p.name for p in sorted((root / name).iterdir())] for root in (FIXTURE, work))
        assert files == kept_files, name
        for file in files:
            assert_equal(FIXTURE / name / file, work / name / file)


def assert_equal(kept: Path, now: Path) -> None:
    """Compare two files by what a later stage reads of them; where the same library wrote both, byte by byte."""
    if kept.suffix == ".parquet":
        one, other = pq.ParquetFile(kept), pq.ParquetFile(now)
        assert one.schema_arrow.equals(other.schema_arrow, check_metadata=True), kept
        assert one.read().equals(other.read()), kept
        if one.metadata.created_by == other.metadata.created_by:
            assert kept.read_bytes() == now.read_bytes(), kept
    elif kept.suffix == ".json" and kept.name != "manifest.json":
        assert figures(json.loads(kept.read_text())) == figures(json.loads(now.read_text())), kept
    elif kept.suffix == ".yaml":
        assert yaml.safe_load(kept.read_text()) == yaml.safe_load(now.read_text()), kept


def figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: figures(inner) for name, inner in value.items() if name not in PROSE}
    return [figures(inner) for inner in value] if isinstance(value, list) else value


def test_a_persons_decisions_are_found(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal under another name would leave the reviewer's table without its decisions, which is an error."""
    before = contents(work)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    drift(work, "review --labels openai --reviewer ann --port 0")
    assert contents(work) == before


def test_the_same_is_asked_about_the_same_conversations(kept: dict[str, Any]) -> None:
    found = computed_requests(FIXTURE)
    assert {name: sorted(keys) for name, keys in found.items()} == {
        name: sorted(keys) for name, keys in kept["computed_requests"].items()
    }
    assert found == kept["computed_requests"]  # with the rest of each request, which the key need not tell


def test_what_was_asked_and_answered_is_in_the_store(kept: dict[str, Any]) -> None:
    stored = stored_requests(FIXTURE)
    assert stored == kept["stored_requests"]
    for name in ("score", "cascade", "extract"):
        for file, keys in kept["computed_requests"].items():
            if file.startswith(f"{name}:"):
                assert keys.keys() <= stored.keys(), file


def missing(kept: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was kept and is no more, or is another."""
    return {name: value for name, value in kept.items() if name not in now or now[name] != value}


CURRENT: dict[str, Callable[[], Mapping[str, Any]]] = {
    "options": options,
    "recipes": recipes,
    "resources": resources,
}


@pytest.mark.parametrize("what", CURRENT)
def test_names_and_values_stay(what: str, kept: dict[str, Any]) -> None:
    assert missing(kept[what], CURRENT[what]()) == {}


def test_views_have_the_columns_and_rows_that_they_had(work: Path, kept: dict[str, Any]) -> None:
    now = views(work)
    assert (
        missing(
            {name: view["rows"] for name, view in kept["views"].items()},
            {name: view["rows"] for name, view in now.items()},
        )
        == {}
    )
    for name, view in kept["views"].items():
        assert missing(view["columns"], now[name]["columns"]) == {}, name


def main() -> None:
    """Write what this commit computes."""
    with tempfile.TemporaryDirectory() as folder:
        work = shutil.copytree(FIXTURE, Path(folder) / "work")
        KEPT.write_text(json.dumps(kept_of(work), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
