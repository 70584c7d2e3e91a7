"""Scores replies with a reward model and writes the `rewards` table. Knows nothing of what the scores decide.

Any Hugging Face sequence classifier with one output will do. It is shown prompt and reply by its tokenizer's chat
template, or, without one, as the two texts (question, answer) that classifiers such as OpenAssistant's expect. What
does not fit loses the oldest turns first, then the end of the reply down to a quarter of the room, then the beginning
of the question: a reply is judged by how it begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from drift_data.schema import REWARDS
from drift_data.workspace import Output, UserError
from drift_train.methods.base import training_prompt
from drift_train.models.load import context_length, device
from drift_train.models.log_probs import CheckError
from drift_train.models.render import Message, shorten
from drift_train.options import RewardOptions

Scored = tuple[Sequence[Message], str]  # prompt, reply


class Reward(Protocol):
    """Says how good replies are."""

    def score(self, rows: Sequence[Scored]) -> list[float]:
        """Return a number a reply; more is better."""
        ...


class RewardModel:
    """A sequence classifier with one output, from a folder with safetensors; no code of the folder is run.

    Args:
        folder: as save_pretrained writes it.
        options: batch size, and how many tokens are looked at.

    Raises:
        UserError: it is no such classifier.
    """

    def __init__(self, folder: Path, options: RewardOptions) -> None:
        if not list(folder.glob("*.safetensors")):
            raise UserError(
                f"The reward model {options.model} has no weights as safetensors. Load it once with transformers and "
                "save_pretrained it into a folder, or name a revision that has them: owner/name@revision."
            )
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                # a half-precision score of a small difference would be a tie, so nothing is lowered
                dtype="auto" if device().type == "cuda" else torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"The reward model {options.model} does not load as a sequence classifier: {error}"
            ) from error
        if self._model.config.num_labels != 1 or loading["missing_keys"]:
            raise UserError(
                f"{options.model} is no reward model: it must be a sequence classifier with one trained output, and "
                f"it has {self._model.config.num_labels}; weights that the folder lacks: "
                f"{sorted(loading['missing_keys']) or 'none'}."
            )
        self._model = self._model.to(device()).eval()
        seen = min(context_length(folder), self._tokenizer.model_max_length)
        self.max_length: int = min(options.max_length or seen, seen)
        # where model and tokenizer do not agree on a pad token, rows go one by one: a classifier on top of a decoder
        # finds the end of a reply by it
        pad = self._model.config.get_text_config().pad_token_id
        self._batch = options.batch_size if pad is not None and pad == self._tokenizer.pad_token_id else 1
        self.shortened = 0  # rows that did not fit whole

    def score(self, rows: Sequence[Scored]) -> list[float]:
        """Return a number a reply, rows of similar length computed together.

        Raises:
            CheckError: a score is no finite number.
        """
        encoded = [self._fit(prompt, reply) for prompt, reply in rows]
        order = sorted(range(len(rows)), key=lambda at: len(encoded[at]["input_ids"]), reverse=True)
        scores = [math.nan] * len(rows)
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            inputs = self._tokenizer.pad([encoded[at] for at in places], return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**inputs.to(device())).logits  # (rows, 1)
            for at, value in zip(places, logits[:, 0].float().tolist(), strict=True):
                scores[at] = value
        for (_, reply), value in zip(rows, scores, strict=True):
            if not math.isfinite(value):
                raise CheckError(f"The reward model gives {value} to the reply {reply[:200]!r}.")
        return scores

    def _encode(self, prompt: Sequence[Message], reply: str) -> dict[str, list[int]]:
        if self._tokenizer.chat_template:
            messages = [*({"role": m["role"], "content": m["content"]} for m in prompt), _assistant(reply)]
            encoded = self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        else:
            encoded = self._tokenizer(_question(prompt), reply)
        return dict(encoded)

    def _fit(self, prompt: Sequence[Message], reply: str) -> dict[str, list[int]]:
        """Return the tokens of prompt and reply, shortened as the module says."""

        def over(shorter: Sequence[Message], answer: str) -> int:
            return len(self._encode(shorter, answer)["input_ids"]) - self.max_length

        if over(prompt, reply) <= 0:
            return self._encode(prompt, reply)
        self.shortened += 1
        if found := shorten(prompt, lambda shorter: over(shorter, reply) <= 0):
            return self._encode(found[0], reply)
        last = prompt[-1]
        while (excess := over([last], reply)) > 0:  # words cut apart may take a token more: then once again
            answer, question = self._offsets(reply), self._offsets(last["content"])
            spare = max(0, len(answer) - self.max_length // 4)
            if spare:
                reply = reply[: answer[len(answer) - min(excess, spare)][0]]
            elif excess < len(question):
                last = {"role": last["role"], "content": last["content"][question[excess][0] :]}
            else:
                raise UserError(
                    f"reward.max_length {self.max_length} leaves no room for a question and an answer."
                )
        return self._encode([last], reply)

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the place of each token in a text."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["offset_mapping"])


def _assistant(reply: str) -> Message:
    return {"role": "assistant", "content": reply}


def _question(prompt: Sequence[Message]) -> str:
    """Return a prompt as one text: a single message as it is, more of them with their roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def write_rewards(
    output: Output, rollouts: Iterable[pa.RecordBatch], total: int, reward: Reward, title: str
) -> None:
    """Score every rollout as a reply to its training prompt and write the table.

    Args:
        output: of the stage that makes `rewards`.
        rollouts: that table, in batches that fit into memory.
        total: its rows.
        reward: scores.
        title: of the progress bar.
    """
    table = output.table(REWARDS)
    output.rows_in = total
    with tqdm(total=total, desc=title, unit="reply", mininterval=0.5) as bar:
        for batch in rollouts:
            rows = batch.to_pylist()
            scores = reward.score(
                [(training_prompt(row["kind"], row["messages"]), row["completion"]) for row in rows]
            )
            keys = ("conversation_id", "turn", "kind", "sample")
            table.write_rows(
                [
                    {**{key: row[key] for key in keys}, "reward": score}
                    for row, score in zip(rows, scores, strict=True)
                ]
            )
            bar.update(len(rows))
