"""Scores replies with a reward model and writes the `rewards` table.

Any Hugging Face sequence classifier with one output will do. It is shown prompt and reply by its tokenizer's chat
template, or, without one, as the two texts (question, answer) that classifiers such as OpenAssistant's expect. A
conversation that does not fit loses its oldest turns first, then the end of the reply down to a quarter of
`max_length`, then the beginning of the question: a reply is judged by how it begins.
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
from drift_train.models.load import choose_device, read_context_length
from drift_train.models.log_probs import CheckError
from drift_train.models.render import Message, Messages, shorten
from drift_train.options import RewardOptions

PromptAndReply = tuple[Messages, str]  # prompt, reply


class RewardScorer(Protocol):
    """Gives a number to replies."""

    def score(self, rows: Sequence[PromptAndReply]) -> list[float]:
        """Return one number for each reply; higher is better."""
        ...


class RewardModel:
    """A sequence classifier with one output, from a folder with safetensors; no code of the folder is run.

    Args:
        folder: the model, as save_pretrained writes it.
        options: batch size, and how many tokens are looked at.

    Attributes:
        max_length: tokens of prompt and reply that the model looks at.
        shortened: number of rows so far that did not fit whole.

    Raises:
        UserError: the folder does not hold such a classifier.
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
                # A GPU keeps the precision of the weights, a CPU takes float32. Nothing is lowered to half precision, in
                # which two close scores would be a tie.
                dtype="auto" if choose_device().type == "cuda" else torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"The reward model {options.model} does not load as a sequence classifier: {error}"
            ) from error
        if self._model.config.num_labels != 1 or loading["missing_keys"]:
            raise UserError(
                f"{options.model} is not a reward model: it must be a sequence classifier with one trained output, and "
                f"it has {self._model.config.num_labels}; weights that the folder lacks: "
                f"{sorted(loading['missing_keys']) or 'none'}."
            )
        self._model = self._model.to(choose_device()).eval()
        context = min(read_context_length(folder), self._tokenizer.model_max_length)
        self.max_length: int = min(options.max_length or context, context)
        # A classifier on top of a decoder finds the end of a reply by the pad token. Where model and tokenizer do not
        # agree on one, rows are therefore scored one by one.
        pad = self._model.config.get_text_config().pad_token_id
        self._batch_size = (
            options.batch_size if pad is not None and pad == self._tokenizer.pad_token_id else 1
        )
        self.shortened = 0

    def score(self, rows: Sequence[PromptAndReply]) -> list[float]:
        """Return one number for each row; rows of similar length are computed together.

        Raises:
            CheckError: a score is not a finite number.
        """
        encoded = [self._encode_shortened(prompt, reply) for prompt, reply in rows]
        order = sorted(range(len(rows)), key=lambda at: len(encoded[at]["input_ids"]), reverse=True)
        scores = [math.nan] * len(rows)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            inputs = self._tokenizer.pad([encoded[at] for at in places], return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**inputs.to(choose_device())).logits  # (rows, 1)
            for at, value in zip(places, logits[:, 0].float().tolist(), strict=True):
                scores[at] = value
        for (_, reply), value in zip(rows, scores, strict=True):
            if not math.isfinite(value):
                raise CheckError(f"The reward model gives {value} to the reply {reply[:200]!r}.")
        return scores

    def _encode(self, prompt: Messages, reply: str) -> dict[str, list[int]]:
        if self._tokenizer.chat_template:
            messages = [
                *({"role": m["role"], "content": m["content"]} for m in prompt),
                _make_assistant_message(reply),
            ]
            encoded = self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        else:
            encoded = self._tokenizer(_render_question(prompt), reply)
        return dict(encoded)

    def _encode_shortened(self, prompt: Messages, reply: str) -> dict[str, list[int]]:
        """Return the tokens of prompt and reply, shortened as the module's docstring says."""

        def count_excess(shorter: Messages, answer: str) -> int:
            return len(self._encode(shorter, answer)["input_ids"]) - self.max_length

        if count_excess(prompt, reply) <= 0:
            return self._encode(prompt, reply)
        self.shortened += 1
        if found := shorten(prompt, lambda shorter: count_excess(shorter, reply) <= 0):
            return self._encode(found[0], reply)
        last = prompt[-1]
        # Cutting within a word can leave more tokens than counted: then once more.
        while (excess := count_excess([last], reply)) > 0:
            answer, question = self._find_offsets(reply), self._find_offsets(last["content"])
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

    def _find_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each token in a text, in characters."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["offset_mapping"])


def _make_assistant_message(reply: str) -> Message:
    return {"role": "assistant", "content": reply}


def _render_question(prompt: Messages) -> str:
    """Return a prompt as one text: a single message as it is, several messages with their roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def write_rewards(
    output: Output, rollouts: Iterable[pa.RecordBatch], total: int, reward: RewardScorer, title: str
) -> None:
    """Score every rollout as a reply to its training prompt and write the table.

    Args:
        output: the folder `rewards`.
        rollouts: the table of rollouts, in batches that fit into memory.
        total: number of rollouts.
        reward: the model that scores them.
        title: name of the progress bar.
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
