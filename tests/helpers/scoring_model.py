"""A scripted model for scoring requests: it reads the prompt as it was sent and judges by a few words.

As a process of its own it serves that over HTTP, see `llm_server`: `python -m tests.helpers.scoring_model --port 0`.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tests.helpers.llm_server import LLMServer

SIGNS = {"wrong": "Factual_Error", "again": "Revision", "thank": "Gratitude"}  # word → item
STRENGTH = 8


def asked_messages(body: dict[str, Any]) -> dict[int, str]:
    """Return turn → text of the messages that a scoring request asks about, read out of its fences."""
    user = body["messages"][-1]["content"]
    asked = re.search(r"Judge these messages and no others: ([\[\], \d]+)\.", user)
    code = re.search(r"^<([0-9a-f]+)>$", user, re.MULTILINE)
    assert asked and code, user
    fences = re.findall(
        rf"^\[(\d+)\] user, to judge\n<{code[1]}>\n(.*?)\n</{code[1]}>$", user, re.DOTALL | re.MULTILINE
    )
    texts = {int(number): text for number, text in fences}
    assert sorted(texts) == sorted(int(number) for number in re.findall(r"\d+", asked[1]))
    return texts


def judged(turn: int, text: str) -> dict[str, Any]:
    """Return what the model says of one message: it depends on that message alone."""
    found = {item: word for word, item in SIGNS.items() if word in text.lower()}
    evidence = next(iter(found.values()), "")
    return {
        "turn": turn,
        "act": "redo" if found else "other",
        "items": [{"name": item, "strength": STRENGTH} for item in found],
        "evidence": evidence,
        "refusal": "no",
    }


def scoring_answer(body: dict[str, Any], count: int = 1) -> str:
    """Answer a scoring request."""
    return json.dumps({"turns": [judged(turn, text) for turn, text in asked_messages(body).items()]})


def varied_answer(body: dict[str, Any], count: int = 1) -> str:
    """As `scoring_answer`, but of every tenth request the first try cannot be used."""
    asked = json.dumps(body["messages"], sort_keys=True)
    first = "Try " not in body["messages"][-1]["content"].split("\n")[0]
    if first and hashlib.sha256(asked.encode()).digest()[0] < 26:
        return '{"turns": []}'
    return scoring_answer(body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    server = LLMServer(varied_answer, latency=options.latency, log=options.log, keep=False, port=options.port)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(lambda: print(server.base_url, flush=True)))


if __name__ == "__main__":
    main()
