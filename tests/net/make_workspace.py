"""Makes the workspace that the net holds up against later commits.

Run once, at commit 2efd463, from the repository's root: `PYTHONPATH=.:tests python tests/net/make_workspace.py`.
What lies in `workspace/`, `answers.jsonl`, `ultrafeedback.jsonl` and `kept/` is what it wrote there. It knows that
commit's modules; a later commit has moved them, so the script is kept to show how, and not to be run again.
"""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import yaml
from llm_server import LLMServer, default_answer
from scoring_model import asked_messages, judged

import pipelines.__main__ as cli
from drift_data.judge.rubric import load_rubric
from drift_data.labels.reviewer import make_reviewer
from drift_data.review.selection import parse
from drift_data.review.session import Answer, Options, Session
from drift_data.workspace import Workspace
from pipelines.experiments.controls import shuffle_labels

NET = Path("tests/net")
WORK = NET / "workspace"
PREFERENCES = 12  # pairs of a made-up UltraFeedback
REVIEWED = 9  # turns


def answer(body: dict, count: int = 1) -> str:
    """Judge by a few words; give two items where a rubric is asked for; fill the schema where a reason is."""
    schema = body["response_format"]["json_schema"]
    if schema["name"] == "rubric":
        fields = schema["schema"]["properties"]["items"]["items"]["properties"]
        made = json.loads(default_answer(body))["items"] or [{}]
        item = {"definition": "The user says how it was.", "asks_for_change": False} | made[0]
        names = (
            ("Praise", "Delight")
            if "dissatisfied" not in body["messages"][0]["content"]
            else ("Fault", "Refusal")
        )
        return json.dumps(
            {"items": [{field: (item | {"name": name})[field] for field in fields} for name in names]}
        )
    if "Judge these messages" not in body["messages"][-1]["content"]:
        return default_answer(body)
    turns = [judged(turn, text) for turn, text in asked_messages(body).items()]
    return json.dumps({"turns": turns})


def drift(command: str, server: LLMServer) -> None:
    """Run one command as a person types it."""
    words = command.replace("WORK", str(WORK)).split()
    common = ["--work", str(WORK), "--recipe", str(NET / "net.yaml")]
    if {"openai", "cascade"} & {*words[: words.index("--model") if "--model" in words else 0]}:
        common += ["--base-url", server.base_url]
    sys.argv = ["drift", *words, *common]
    print("$", command, flush=True)
    assert cli.main() == 0, command


def write_preferences() -> None:
    """Write a file of UltraFeedback's binarized form."""
    with (NET / "ultrafeedback.jsonl").open("w") as file:
        for number in range(PREFERENCES):
            prompt = {"role": "user", "content": f"please name the number after {number}"}
            replies = [{"role": "assistant", "content": str(number + step)} for step in (1, 2)]
            row = {"prompt": prompt["content"], "prompt_id": f"pair{number}"}
            row |= {"chosen": [prompt, replies[0]], "rejected": [prompt, replies[1]]}
            file.write(json.dumps(row | {"score_chosen": 8.0, "score_rejected": 3.0}) + "\n")


def write_answers(server: LLMServer) -> None:
    """Write results in the Batch API's format for the requests that `--offline` leaves in a workspace of its own."""
    apart = NET / "apart"
    shutil.copytree(WORK / "conversations", apart / "conversations")
    shutil.copytree(WORK / "simulated", apart / "simulated")
    words = ["label", "--judge", "batch", "--model", "batched", "--offline"]
    sys.argv = ["drift", *words, "--work", str(apart), "--recipe", str(NET / "net.yaml")]
    assert cli.main() == 0
    with (NET / "answers.jsonl").open("w") as file:
        for path in sorted(apart.glob("batch/**/requests-*.jsonl")):
            for line in map(json.loads, path.read_text().splitlines()):
                message = {"role": "assistant", "content": answer(line["body"])}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                response = {"status_code": 200, "body": {"choices": [choice]}}
                row = {"custom_id": line["custom_id"], "response": response, "error": None}
                file.write(json.dumps(row) + "\n")
    shutil.rmtree(apart)


def review() -> None:
    """Decide on the first turns of labels/openai, as the page's form would."""
    workspace, chosen = Workspace(WORK), parse("order=log")
    session = Session(workspace, Options("labels/openai", make_reviewer("ann"), load_rubric(None)))
    for number in range(REVIEWED):
        shown = session.turn(number, chosen)
        ticked = frozenset(item["name"] for item in shown.judged["items"])
        session.decide(
            Answer(
                key=shown.key,
                label="SAT" if number % 3 == 0 else shown.judged["label"],
                items=ticked,
                shown_items=ticked,
                prefilled_label=shown.judged["label"],
                refusal=None,
                correct_refusal=None,
                judge_label=shown.judged["label"],
                text=shown.text,
                blind=False,
            ),
            chosen,
        )
    session.close()


def tidy() -> None:
    """Remove what no manifest covers and no stage needs, and make the databases small."""
    for name in (".lock", ".unfinished", ".tmp", "batch", "logs"):
        path = WORK / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in WORK.glob("**/*.sqlite"):
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode = DELETE")
        database.execute("VACUUM")
        database.close()


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    write_preferences()
    with LLMServer(answer) as server:
        for command in yaml.safe_load((NET / "commands.yaml").read_text()):
            if "--offline" in command:
                write_answers(server)
            if "human:ann" in command:
                review()
            drift(command, server)
    shuffle_labels(Workspace(WORK), "labels/local", 0)
    tidy()


if __name__ == "__main__":
    main()
