"""DRIFT: rejected is the reply a user complained about, chosen the policy's own fresh attempt at the same
place.

The attempt is guided: the policy sees the rejected reply, the complaint and an instruction. The training
prompt shows none of these (arXiv 2510.02341, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drift_train.render import Message

GUIDED, PLAIN = "guided", "plain"


def guided(prompt: Sequence[Message], rejected: str, complaint: str, instruction: str) -> list[Message]:
    """Return the conversation with the rejected reply, then one user turn of complaint and instruction."""
    return [
        *prompt,
        {"role": "assistant", "content": rejected},
        {"role": "user", "content": f"{complaint}\n\n{instruction}"},
    ]


def asked(
    prompt: Sequence[Message], rejected: str, complaint: str | None, instruction: str
) -> Mapping[str, list[Message]]:
    """Return the guided prompt, or x alone where no complaint guides (the paper's ablation)."""
    if complaint is None:
        return {PLAIN: list(prompt)}
    return {GUIDED: guided(prompt, rejected, complaint, instruction)}


def prompt(kind: str, messages: Sequence[Message]) -> Sequence[Message]:
    """Return x: what was shown, without the rejected reply and the complaint."""
    return messages[:-2] if kind == GUIDED else messages


def pair(samples: Mapping[str, str], rejected: str) -> tuple[str, str]:
    """Return the one sampled reply as chosen; the rejected reply stays as it was logged."""
    (chosen,) = samples.values()
    return chosen, rejected
