"""The page of reasons has every reason with which the code drops a row, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from drift_data.convert.rules import CHAT_RULES
from drift_data.distill.measure import NOT_FOUND_REASON, OVER_CAP_REASON
from drift_data.llm.request import DECLINED, INVALID
from drift_data.llm.response import CONTENT_FILTER, PROMPT_TOO_LONG, REQUEST_REFUSED
from drift_data.review.table import CHANGED_REASON
from drift_data.sources.parquet import UNREADABLE_ROW_GROUP
from drift_train.pairs.filters import LENGTH_STOP
from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs/reference/drop-reasons.md").read_text(encoding="utf-8")
CONSTANTS = {
    *CHAT_RULES,
    *DECLINED.values(),
    INVALID,
    CONTENT_FILTER,
    PROMPT_TOO_LONG,
    REQUEST_REFUSED,
    CHANGED_REASON,
    UNREADABLE_ROW_GROUP,
    LENGTH_STOP,
    OVER_CAP_REASON,
    NOT_FOUND_REASON,
}
# Files whose functions return a reason as text, or a value and a reason.
RETURNING = [
    ROOT / "drift_data/mine/rules.py",
    ROOT / "drift_data/convert/examples.py",
    *sorted((ROOT / "drift_data/sources").glob("*.py")),
]
# Call → place of the reason among its arguments.
CALLS = {"SetAside": 2, "ReadyExample": 2, "MinedRow": 2, "leave": 0, "RenderError": 0, "PairRefused": 0}
VARIABLES = {"reason", "problem", "fault", "broken", "error", "NO_LABEL", "INVALID_UTF8", "_NO_FEEDBACK"}
WORD = re.compile(r"[a-z]+(_[a-z0-9]+)*")
# Texts that the patterns find and that are not reasons of drops → what they are.
OTHERS = {
    "doubled_turn": "what is wrong with an answer: the detail of invalid_answer",
    "length": "how a sampled reply ended",
    "stop": "how a sampled reply ended",
    "other": "failures of a batch whose reason is not counted by name",
}


def find_texts(node: ast.expr | None) -> Iterator[str]:
    """Yield the texts that an expression may give, such as both sides of an `if`."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=other):
            yield from find_texts(body)
            yield from find_texts(other)
        case ast.BoolOp(values=values):
            for value in values:
                yield from find_texts(value)
        case ast.Tuple(elts=[ast.expr(), last]):
            yield from find_texts(last)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "reason":
                    yield from find_texts(value)


def find_reasons(path: Path) -> Iterator[str]:
    """Yield the reasons that stand as text in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                if name in CALLS and len(args) > CALLS[name]:
                    yield from find_texts(args[CALLS[name]])
                if name in {"Answer", "Failure", "UnlabelledTurn", "replace"}:
                    for keyword in keywords:
                        if keyword.arg in ("error", "reason"):
                            yield from find_texts(keyword.value)
            case ast.Assign(targets=[target], value=value):
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                if any(isinstance(name, ast.Name) and name.id in VARIABLES for name in names):
                    yield from find_texts(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if name in VARIABLES:
                yield from find_texts(value)
            case ast.Dict():
                yield from find_texts(node)
            case ast.Return(value=value) if path in RETURNING:
                yield from find_texts(value)


def list_reasons() -> set[str]:
    """Return every reason of the code that drops rows."""
    parts = ("convert", "sources", "judge", "llm", "mine", "rubric")
    folders = [ROOT / "drift_data" / part for part in parts]
    folders += [ROOT / "drift_train" / part for part in ("models", "rollout", "pairs", "evaluate")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    found = {text for path in files for text in find_reasons(path) if WORD.fullmatch(text)}
    return (found - OTHERS.keys()) | CONSTANTS


def list_described() -> set[str]:
    """Return every reason in the first column of a table of the page, and those that its prose names."""
    cells = re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} | {
        reason for reason in (OVER_CAP_REASON, NOT_FOUND_REASON) if f"`{reason}`" in PAGE
    }


def test_the_search_finds_a_reason_of_each_kind_of_place() -> None:
    found = list_reasons()
    assert {"broken_json", "broken_off", "toxic", "prompts_differ", "same_reply", "no_label", "leak"} <= found
    assert {"no_feedback", "eos", "over_budget", "no_label_in_the_data", "no_user_message"} <= found


def test_every_reason_that_the_code_can_write_is_on_the_page() -> None:
    assert sorted(list_reasons() - list_described()) == []


def test_every_reason_on_the_page_is_in_the_code() -> None:
    assert sorted(list_described() - list_reasons()) == []
