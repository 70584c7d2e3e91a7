"""The card of a model: what stands in it, what never does, and that it is no part of the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift_data.publish.cards.model import render_model_card, write_model_card
from drift_data.report.options import AlarmOptions
from drift_data.workspace import CARD, MANIFEST, UserError, Workspace, hash_folder
from tests.helpers.sample_workspace import RUN, sample

MODEL = f"runs/{RUN}/iter1/model"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return sample(tmp_path / "work")


def edit(workspace: Workspace, name: str, **changes: Any) -> None:
    """Change what a manifest says; its digest stays, so nothing becomes stale."""
    path = workspace.path(name) / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def card(workspace: Workspace, iteration: int = 1, **options: Any) -> str:
    return render_model_card(workspace, RUN, iteration, AlarmOptions(), **options)


def front(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_method_data_options_figures_and_alarms(workspace: Workspace) -> None:
    text = card(workspace)
    assert "`tiny` after a warm start and 1 iteration of DPO on what users complained about" in text
    assert "DRIFT: rejected is a reply that drew a complaint" in text
    assert "| M1 | `drift` | 3 | `leaks guidance` 1 | `M0` | `M0` | 10 |" in text
    assert "beta `0.1`" in text
    digest = workspace.require("dsat").digest
    assert f"| `dsat` | 4 | `{digest}` |" in text
    assert "| `gold` | M1 | 0.875 | 0.100 | 4 |" in text
    assert "- M0: replies cut for length: 0.25 (alarm > 0.1)" in text
    assert "saved in `float32`" in text
    assert f'from_pretrained("{MODEL}"' in text
    assert "{{" not in text and "{%" not in text


def test_equal_runs_have_equal_cards_whatever_the_machine(workspace: Workspace) -> None:
    first = card(workspace)
    edit(workspace, MODEL, seconds=99.0, peak_memory_bytes=1)
    assert card(workspace) == first
    assert str(workspace.root) not in first


def test_of_folders_on_this_machine_the_last_part_shows(workspace: Workspace) -> None:
    place = "/home/ann/secret-project/checkpoint"
    made_by = {"policy": place, "reference": place, "precision_saved": "float32"}
    edit(workspace, f"runs/{RUN}/iter0/model", made_by=made_by, files={f"base:{place}": "abc"})
    edit(workspace, MODEL, options={"method": "drift", "launch": place, "vllm": {"x": place}, "lora": place})
    text = card(workspace)
    assert "secret-project" not in text
    assert "| `base model checkpoint` |  | `abc` |" in text
    assert "base_model" not in front(text)


@pytest.mark.parametrize(
    ("base", "given", "licence"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", None, "apache-2.0"),
        ("Qwen/Qwen2.5-7B-Instruct@abc", None, "apache-2.0"),
        ("someone/model", None, "other"),
        ("someone/model", "mit", "mit"),
    ],
)
def test_a_base_model_of_the_hub_is_linked_with_its_licence(
    workspace: Workspace, base: str, given: str | None, licence: str
) -> None:
    made_by = {"policy": base, "reference": base}
    edit(workspace, f"runs/{RUN}/iter0/model", made_by=made_by, files={f"base:{base}": "revision:abc"})
    meta = front(card(workspace, licence=given))
    assert (meta["base_model"], meta["license"]) == (base.split("@")[0], licence)


def test_the_base_model_unchanged_is_called_so(workspace: Workspace) -> None:
    reason = "the recipe has no warm start"
    made_by = {"model": "someone/model", "warm_start": False, "reason": reason}
    edit(workspace, f"runs/{RUN}/iter0/model", made_by=made_by)
    assert (
        f"This is the base model `someone/model`, unchanged: the run had no warm start (`{reason}`)"
        in card(workspace, 0)
    )
    assert "`someone/model` after 1 iteration of DPO" in card(workspace)
    assert "| M0 |" not in card(workspace).split("## Figures")[0]


def test_an_evaluation_of_another_model_is_not_shown(workspace: Workspace) -> None:
    edit(workspace, f"runs/{RUN}/iter1/eval", inputs={MODEL: "of an earlier training"})
    text = card(workspace)
    assert "| `gold` | M0 |" in text
    assert "| `gold` | M1 |" not in text


def test_text_of_manifests_cannot_become_mark_up(workspace: Workspace) -> None:
    hostile = "`x` | <script>alert(1)</script>\n# heading\n---\nlicense: mit"
    edit(workspace, f"runs/{RUN}/iter1/pairs", dropped={hostile: 1})
    edit(workspace, MODEL, options={"method": hostile, "note": hostile})
    text = card(workspace)
    assert "\n# heading" not in text and "\nlicense: mit" not in text
    for line in text.splitlines():
        parts = line.split("`")
        assert not any("<script>" in outside for outside in parts[::2])


def test_a_stale_model_has_no_card(workspace: Workspace) -> None:
    edit(workspace, f"runs/{RUN}/iter1/pairs", digest="another")
    with pytest.raises(UserError, match="was made from another"):
        card(workspace)


def test_the_card_is_written_into_the_model_and_is_no_part_of_it(workspace: Workspace) -> None:
    folder = workspace.path(MODEL)
    before = hash_folder(folder)
    path = write_model_card(workspace, RUN, 1, AlarmOptions())
    assert path == folder / CARD
    assert path.read_text() == card(workspace)
    assert hash_folder(folder) == before == workspace.require(MODEL).digest
    written = path.stat().st_mtime_ns
    write_model_card(workspace, RUN, 1, AlarmOptions())
    assert path.stat().st_mtime_ns == written
    assert sorted(each.name for each in folder.iterdir()) == [CARD, "config.json", MANIFEST]


def test_the_base_models_own_card_stays_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "base.md").write_text("of the base model")
    (workspace.path(MODEL) / CARD).hardlink_to(
        tmp_path / "base.md"
    )  # as a model linked from another folder has it
    write_model_card(workspace, RUN, 1, AlarmOptions())
    assert (tmp_path / "base.md").read_text() == "of the base model"
