"""Where a model comes from: the workspace, a folder, or the Hub, here its cache without a network."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from drift_data.workspace import UserError, Workspace
from drift_train.models.find import find_model

COMMIT = "c" * 40


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds one revision of one model, as the Hub's library lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "models--owner--name"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    reference = folder / "refs" / "refs" / "pr" / "3"
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    return snapshot


def test_a_hub_id_may_name_a_revision_and_the_commit_is_recorded(cached: Path, tmp_path: Path) -> None:
    found = find_model(Workspace(tmp_path / "work"), "owner/name@refs/pr/3", "reward model")
    assert found.path == cached
    assert found.files == {"reward:owner/name@refs/pr/3": f"revision:{COMMIT}"}
    assert found.inputs == ()


@pytest.mark.parametrize("name", ["owner/name", "owner/name@v2", "owner/other@refs/pr/3"])
def test_what_the_hub_does_not_give_is_a_clear_error(cached: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"The reward model {name} is not a folder, and the Hub does not give it"
    ):
        find_model(Workspace(tmp_path / "work"), name, "reward model")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./owner/name", "nowhere@v2"])
def test_what_is_neither_folder_nor_hub_id_is_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"No base model {name}: it is neither"):
        find_model(Workspace(tmp_path / "work"), name)
