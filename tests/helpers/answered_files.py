"""A file of answers to the requests of `JUDGE=batch OFFLINE=1`, as a language model that knows the true labels gives."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from drift_data.schema import NEUTRAL
from drift_data.workspace import Workspace
from pipelines.judges import make_llm_judge, open_llm
from pipelines.recipe import Recipe
from tests.helpers.scoring_model import asked_messages

Truth = Mapping[tuple[str, int], tuple[str, str | None]]  # key → label, item
ITEMS = {"SAT": "Gratitude", "DSAT": "Revision"}


def write_answers(
    path: Path,
    workspace: Workspace,
    recipe: Recipe,
    truth: Truth,
    conversations: set[str],
    mistaken: Callable[[str, int], bool] = lambda conversation, turn: False,
) -> Path:
    """Write results in the Batch API's format for the requests about some conversations.

    Args:
        path: of the file.
        workspace: holds the conversations.
        recipe: names the model.
        truth: of every feedback turn.
        conversations: to answer about.
        mistaken: turns that are answered as NEUTRAL, whatever they are.
    """
    columns = ["conversation_id", "messages"]
    with open_llm(workspace, recipe.label, "batch") as asked, path.open("w") as file:
        for exchange in make_llm_judge(workspace, asked, recipe.label).plan_exchanges(
            workspace.batches("conversations", columns)
        ):
            if exchange.conversation not in conversations:
                continue
            turns = []
            for turn, text in asked_messages(exchange.request.body("openai")).items():
                label, item = truth[exchange.conversation, turn]
                calm = label == NEUTRAL or mistaken(exchange.conversation, turn)
                items = [] if calm else [{"name": item or ITEMS[label], "strength": 8}]
                evidence = "" if calm else " ".join(text.split()[:3])
                turns.append(
                    {"turn": turn, "act": "other", "items": items, "evidence": evidence, "refusal": "no"}
                )
            message = {"role": "assistant", "content": json.dumps({"turns": turns})}
            body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            line = {
                "custom_id": exchange.request.key,
                "response": {"status_code": 200, "body": body},
                "error": None,
            }
            file.write(json.dumps(line) + "\n")
    return path
