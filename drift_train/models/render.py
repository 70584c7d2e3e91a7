"""Turns messages into tokens by the model's chat template: the one way, for rollouts and for training.

Knows tokenizers and templates, nothing about what a conversation is used for.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

Message = Mapping[str, str]  # role, content
Messages = Sequence[Message]


class RenderError(Exception):
    """A conversation that cannot be rendered as the checks demand; `reason` is short enough to be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Renderer:
    """Renders conversations for one tokenizer.

    Attributes:
        tokenizer: of the policy.
        ends: tokens that end a reply; some models (Gemma) end their turns with another token than the EOS.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.ends = sorted({tokenizer.eos_token_id, *(ends or ())})
        special = {
            *tokenizer.all_special_tokens,
            *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special),
        }
        self._special = tuple(sorted(special))

    def prompt(self, messages: Messages) -> list[int]:
        """Return the tokens of a prompt, up to and with the header of the reply to come.

        Raises:
            RenderError: `template` (it rejects these roles), `extra_bos`, or `special_token` (a message holds
                text that the tokenizer reads as a control token; logs are hostile).
        """
        for message in messages:
            self._refuse_special(message["content"])
        ids = self._ids(messages, generate=True)
        self._check_bos(ids)
        return ids

    def pair(self, messages: Messages, completion: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a prompt and of a reply to it, which together are the rendered conversation.

        Raises:
            RenderError: as `prompt`, or `prompt_not_prefix`, or `eos` (the reply has not exactly one, or more
                than white space follows it).
        """
        prompt = self.prompt(messages)
        self._refuse_special(completion)
        full = self._ids([*messages, {"role": "assistant", "content": completion}], generate=False)
        self._check_bos(full)
        if full[: len(prompt)] != prompt:
            raise RenderError(
                "prompt_not_prefix", "the template renders the prompt differently once a reply follows"
            )
        reply = full[len(prompt) :]
        self.check_end(reply)
        return prompt, reply

    def text(self, token_ids: Sequence[int]) -> str:
        """Return a sampled reply as text, without the token that ended it.

        Any other control token stays visible: the model went on into a turn of its own making, and `pair`
        refuses such a reply.
        """
        ids = list(token_ids[:-1] if token_ids and token_ids[-1] in self.ends else token_ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _ids(self, messages: Messages, *, generate: bool) -> list[int]:
        plain = [{"role": m["role"], "content": m["content"]} for m in messages]
        try:
            return list(
                self.tokenizer.apply_chat_template(
                    plain, tokenize=True, return_dict=True, add_generation_prompt=generate
                )["input_ids"]
            )
        except TemplateError as error:
            raise RenderError("template", str(error)) from error

    def _refuse_special(self, text: str) -> None:
        for token in self._special:
            if token in text:
                raise RenderError("special_token", f"a message contains the control token {token}")

    def _check_bos(self, ids: Sequence[int]) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id and ids.count(bos) > 1:
            raise RenderError("extra_bos", f"{ids.count(bos)} BOS tokens in one conversation")

    def check_end(self, reply: Sequence[int]) -> None:
        """Raise RenderError (`eos`) when a reply has not exactly one end, or more than white space follows it."""
        places = [i for i, token in enumerate(reply) if token in self.ends]
        if len(places) != 1:
            raise RenderError("eos", f"{len(places)} EOS tokens in a reply, not 1")
        rest = self.tokenizer.decode(reply[places[0] + 1 :])
        if rest.strip():
            raise RenderError("eos", f"{rest!r} follows the EOS of a reply")


def shorten(messages: Messages, fits: Callable[[Messages], bool]) -> tuple[list[Message], int] | None:
    """Drop the oldest turns until a prompt fits; a leading system message and the last user message always
    stay.

    Args:
        messages: a prompt, which ends with a user message.
        fits: says of a shortened prompt whether it is short enough. Must hold for every shorter one, too.

    Returns:
        The prompt and how many messages went; None when even the shortest does not fit.
    """
    head = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
    body = list(messages[len(head) :])
    starts = [i for i, message in enumerate(body) if message["role"] == "user"] or [0]
    if fits(messages):
        return list(messages), 0
    # `fits` is False … False True … True over the starts: find the first True
    first = bisect.bisect_left(starts, True, key=lambda start: fits([*head, *body[start:]]))
    if first == len(starts):
        return None
    return [*head, *body[starts[first] :]], starts[first]
