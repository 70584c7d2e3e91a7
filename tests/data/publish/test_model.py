"""Publishing a model over HTTP to a loopback Hub: what arrives, what stays here, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from huggingface_hub import HfApi

from drift_data.publish.cards.model import write_model_card
from drift_data.publish.model import publish_model
from drift_data.publish.options import PublishOptions
from drift_data.report.options import AlarmOptions
from drift_data.workspace import CARD, MANIFEST, UserError, Workspace
from tests.helpers.hub_server import MODELS, TOKEN, HubServer, hub_server
from tests.helpers.sample_workspace import RUN, sample

REPO = "team/better"
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"one" * 1_000,
    "model-00002-of-00002.safetensors": b"two" * 1_000,
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
NOT_OURS = {
    "optimizer.pt": b"state",
    "trainer_state.json": b"{}",
    "events.log": b"log",
    "training_args.bin": b"x",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with hub_server() as server:
        yield server


def retrain(workspace: Workspace, files: dict[str, bytes], iteration: int = 1) -> None:
    """Make a model of the run again, of these files."""
    name = f"runs/{RUN}/iter{iteration}/model"
    manifest = workspace.require(name)

    def build(stage):
        output = stage[name]
        output.made_by, output.results = manifest.made_by, manifest.results
        for path, content in files.items():
            (output.folder / path).write_bytes(content)

    inputs = list(manifest.inputs)
    workspace.run(manifest.stage, [name], build, options=manifest.options, inputs=inputs, again=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = sample(tmp_path / "work")
    retrain(made, {**FILES, **NOT_OURS})
    write_model_card(made, RUN, 1, AlarmOptions())
    return made


def send(workspace: Workspace, hub: HubServer, model: str = "iter1", run: str = RUN, **options) -> str:
    return publish_model(
        workspace, REPO, run, model, PublishOptions(**options), AlarmOptions(), TOKEN, hub.endpoint
    )


def head(hub: HubServer) -> dict[str, bytes]:
    return hub.repos[f"{MODELS}{REPO}"].head.files


def test_one_commit_holds_weights_tokenizer_and_card_and_nothing_else(
    workspace: Workspace, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = send(workspace, hub)
    repo = hub.repos[f"{MODELS}{REPO}"]
    assert url == f"{hub.endpoint}/{REPO}/commit/{repo.head.oid}"
    assert [commit.message for commit in repo.commits] == ["initial commit", f"Publish iter1 of {RUN}"]
    assert repo.private
    arrived = {name: content for name, content in head(hub).items() if name != ".gitattributes"}
    card = arrived.pop(CARD).decode()
    assert arrived == FILES
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert f'from_pretrained("{REPO}"' in card
    said = capsys.readouterr().err
    assert f"published: {REPO} (private), {len(FILES)} files" in said
    assert f"left here: {', '.join(sorted(NOT_OURS))}" in said
    assert not (workspace.root / ".publish").exists()
    assert hub.count("upload") == 2  # the weights, by LFS


def test_a_published_model_is_read_back_as_it_was(
    workspace: Workspace, hub: HubServer, tmp_path: Path
) -> None:
    send(workspace, hub)
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    folder = Path(api.snapshot_download(REPO, local_dir=tmp_path / "back"))
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_equal_content_is_not_committed_twice(
    workspace: Workspace, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(workspace, hub) == send(workspace, hub)
    assert "the same content is there already" in capsys.readouterr().err
    assert hub.count("commit") == 1


def test_shards_of_the_model_before_are_deleted_and_foreign_files_stay(
    workspace: Workspace, hub: HubServer
) -> None:
    send(workspace, hub)
    repo = hub.repos[f"{MODELS}{REPO}"]
    repo.commit("by hand", {**repo.head.files, "notes.md": b"mine"})
    whole = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"all"}
    retrain(workspace, whole)
    send(workspace, hub)
    assert {name for name in head(hub) if name.startswith("model")} == {"model.safetensors"}
    assert head(hub)["notes.md"] == b"mine"


@pytest.mark.parametrize(
    ("model", "run", "message"),
    [
        ("iter2", RUN, r"no finished model 'iter2'.*MODEL_OF= one of: iter0, iter1"),
        ("../dsat", RUN, r"no finished model '\.\./dsat'"),
        ("iter1", "other", "none yet"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_those_that_are(
    workspace: Workspace, hub: HubServer, model: str, run: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        send(workspace, hub, model, run)
    assert hub.requests == []


def test_a_stale_model_is_refused(workspace: Workspace, hub: HubServer) -> None:
    path = workspace.path(f"runs/{RUN}/iter1/pairs") / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "another"}))
    with pytest.raises(UserError, match=r"was made from another .*iter1/pairs.*Run `make iter` again"):
        send(workspace, hub)
    assert hub.requests == []


def test_a_model_that_was_changed_by_hand_is_refused(workspace: Workspace, hub: HubServer) -> None:
    (workspace.path(f"runs/{RUN}/iter1/model") / "model-00001-of-00002.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="is not what was trained"):
        send(workspace, hub)


def test_a_card_by_hand_is_no_change_of_the_model(workspace: Workspace, hub: HubServer) -> None:
    (workspace.path(f"runs/{RUN}/iter1/model") / CARD).write_text("mine")
    send(workspace, hub)


def test_a_folder_without_weights_is_refused(workspace: Workspace, hub: HubServer) -> None:
    retrain(workspace, {"config.json": b"{}", "optimizer.safetensors": b"state"})
    with pytest.raises(UserError, match=r"config\.json or weights are missing"):
        send(workspace, hub)


def test_the_unchanged_base_model_is_not_published_as_ones_own(tmp_path: Path, hub: HubServer) -> None:
    workspace, name = Workspace(tmp_path), "runs/r/iter0/model"

    def build(stage):
        stage[name].made_by = {"model": "Qwen/Qwen2.5-7B-Instruct", "warm_start": False, "reason": "no pairs"}

    workspace.run("warm", [name], build, options={})
    with pytest.raises(UserError, match=r"is the base model Qwen/Qwen2\.5-7B-Instruct itself"):
        send(workspace, hub, "iter0", "r")


def test_a_public_repository_needs_the_option(workspace: Workspace, hub: HubServer) -> None:
    hub.create(f"{MODELS}{REPO}", private=False)
    with pytest.raises(UserError, match=r"exists and is public.*publish\.private=false"):
        send(workspace, hub)
    send(workspace, hub, private=False)
    assert "config.json" in head(hub)
