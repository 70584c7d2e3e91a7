"""Writes the `pairs` table: one pair for each example that has one, and the other examples with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from drift_data.schema import DROPPED, PAIRS
from drift_data.workspace import Output
from drift_train.pairs.filters import PairCandidate, PairFilter, PairRefused

_ROWS_AT_ONCE = 1_000  # rows of the table that are written together


def write_pairs(
    output: Output,
    candidates: Iterable[PairCandidate],
    keep: PairFilter,
    method: str,
    policy: str,
    title: str,
) -> None:
    """Write one pair for each example that has one, and the other examples, with their reasons, as dropped rows.

    Args:
        output: the folder `pairs`.
        candidates: one for each example, of any split.
        keep: the filters that a pair must pass.
        method: name of the method, for the table.
        policy: name of the policy that a sampled reply comes from, for the table.
        title: name of the progress bar.
    """
    table, counts, total = output.table(PAIRS), Counter[str](), 0
    rows: list[dict[str, Any]] = []
    for candidate in tqdm(candidates, desc=title, unit="pair", mininterval=0.5):
        total += 1
        counts.update(shortened=candidate.shortened)
        key = {"conversation_id": candidate.conversation_id, "turn": candidate.turn}
        try:
            place, (chosen, rejected), (chosen_tokens, rejected_tokens) = keep.choose_pair(candidate)
        except PairRefused as refused:
            output.drop([{**key, "reason": refused.reason, "detail": refused.detail}], DROPPED)
            continue
        counts.update(pairs=1, later=place > 0, chosen=chosen_tokens, rejected=rejected_tokens)
        rows.append(
            {
                **key,
                "prompt": [dict(message) for message in candidate.prompt],
                "chosen": _make_messages(chosen.text),
                "rejected": _make_messages(rejected.text),
                "split": candidate.split,
                "chosen_tokens": chosen_tokens,
                "rejected_tokens": rejected_tokens,
                "method": method,
                "policy": policy,
            }
        )
        if len(rows) == _ROWS_AT_ONCE:
            table.write_rows(rows)
            rows = []
    table.write_rows(rows)
    output.rows_in = total
    kept = max(1, counts["pairs"])
    output.results["shortened_prompts"] = counts["shortened"]
    output.results["mean_chosen_tokens"] = round(counts["chosen"] / kept, 2)
    # Number of examples with several samples whose best pair the filters refused, so that a later one was taken.
    output.results["later_choices"] = counts["later"]
    output.results["mean_rejected_tokens"] = round(counts["rejected"] / kept, 2)


def _make_messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]
