"""What the pages name is there: files, modules, options, links; and the README stays short."""

import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from pipelines.option_list import list_option_groups
from tests.helpers.paths import ROOT

GENERATED = {"options.md", "tables.md", "commands.md"}
PAGES = [
    ROOT / "README.md",
    ROOT / "data" / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in GENERATED),
]
FOLDERS = "drift_data|drift_train|pipelines|tests|benches|notebooks|requirements"
# Made by the commands that a page shows, or a place where something is to be written.
NOT_IN_GIT = re.compile(r"<|>|…")

# Names that a page makes up for its example, and words of an example's prose.
EXAMPLES_OF_NAMES = {"count_words", "WordOptions", "WORD_ROWS", "Write", "WordJudge"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(rf"(?<![\w./])(?:{FOLDERS})/[\w./*<>…-]+", page.read_text(encoding="utf-8"))
    paths = {path.rstrip(".") for path in named if not NOT_IN_GIT.search(path)}
    assert sorted(path for path in paths if not list(ROOT.glob(path.rstrip("/")))) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_that_a_page_names_can_be_imported(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:drift_data|drift_train|pipelines)(?:\.[a-z_]+)+)`", text))
    assert sorted(module for module in named if importlib.util.find_spec(module) is None) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    groups = list_option_groups()
    known = {option.key for group in groups for option in group.options} | {group.key for group in groups}
    tops = "|".join(sorted({group.key.split(".")[0] for group in groups if group.key}))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w./-])((?:{tops})(?:\.[a-z_]+)+)(?=[`=\s\"])", text))
    keys = {key for key in named if not key.endswith((".py", ".json", ".md"))}
    assert sorted(key for key in keys if not is_known(key, known)) == []


def is_known(key: str, known: set[str]) -> bool:
    """Say whether a key is an option, or lies inside one that takes any arguments."""
    return key in known or key.startswith("loop.rollout.vllm.")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_and_variable_that_a_page_names_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(
        re.findall(r"\$\((?:call (?:option|flag),)?([A-Z_]+)[,)]|^([A-Z]+) \?=", makefile, re.MULTILINE)
    )
    known = {name for pair in variables for name in pair} | {"T", "SEEDS", "SQL", "DEVICE", "PYTHON"}
    code = re.findall(r"`[^`\n]+`", page.read_text(encoding="utf-8"))
    named = {name for piece in code for name in re.findall(r"\bmake ([a-z-]+)", piece)}
    assert sorted(named - targets) == []
    of_the_shell = {
        "HF_TOKEN",
        "DRIFT_WORK",
        "DRIFT_KILLS",
        "DRIFT_CHATS",
        "DRIFT_GOLD_MODEL",
        "OPENAI_API_KEY",
    }
    given = {name for piece in code for name in re.findall(r"(?<![\w.-])([A-Z][A-Z_]*)=", piece)}
    assert sorted(given - known - of_the_shell) == []


@pytest.mark.parametrize("page", [page for page in PAGES if "develop" in page.parts], ids=name_of)
def test_every_name_of_the_code_that_a_page_for_developers_uses_is_in_the_code(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"`([A-Za-z_][\w.]*)(?:\(.*?\))?`", text))
    named |= set(re.findall(r"\b(?:[A-Z][a-z]+){1,}\b|\b[a-z]+(?:_[a-z]+)+\b", blocks))
    words = {word for name in named for word in name.split(".")}
    assert sorted(words - words_of_the_code() - EXAMPLES_OF_NAMES) == []


def test_the_page_of_the_architecture_has_the_layers_of_the_linter() -> None:
    page = (ROOT / "docs/develop/architecture.md").read_text(encoding="utf-8")
    borders = page[page.index("## Borders") : page.index("## Tables")]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    for contract in settings["contracts"]:
        if contract["type"] == "layers":
            places = [borders.find(f"  {layer}") for layer in contract["layers"]]
            assert -1 not in places and places == sorted(places), contract["name"]


@cache
def words_of_the_code() -> set[str]:
    """Return every word that stands in the code and the files beside it."""
    files = [ROOT / "Makefile", ROOT / "pyproject.toml"]
    for folder in ("drift_data", "drift_train", "pipelines", "tests/helpers"):
        files += [path for ending in ("py", "yaml", "sql") for path in (ROOT / folder).rglob(f"*.{ending}")]
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES[:2], ids=name_of)
def test_every_link_of_a_readme_leads_somewhere(page: Path) -> None:
    # The links between the pages of docs/ are checked by `make docs`.
    for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readme_fits_on_a_few_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 300
