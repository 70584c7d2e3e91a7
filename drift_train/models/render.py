"""Turns messages into tokens by a model's chat template. Rollouts and training both render here, and nowhere else."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

Message = Mapping[str, str]  # role, content
Messages = Sequence[Message]


class RenderError(Exception):
    """A conversation cannot be rendered as the checks demand. Drops are counted by `reason`, which is one word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Renderer:
    """Renders conversations for one tokenizer.

    Attributes:
        tokenizer: the policy's tokenizer.
        ends: ids of the tokens that end a reply. Some models (Gemma) end their turns with another token than the EOS.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.ends = sorted({tokenizer.eos_token_id, *(ends or ())})
        special = {
            *tokenizer.all_special_tokens,
            *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special),
        }
        self._special = tuple(sorted(special))

    def render_prompt(self, messages: Messages) -> list[int]:
        """Return the tokens of a prompt, with the header of the reply at the end.

        Raises:
            RenderError: `template` (the template rejects these roles), `extra_bos`, or `special_token` (a message
                holds text that the tokenizer reads as a control token; logs are hostile).
        """
        for message in messages:
            self._refuse_special(message["content"])
        ids = self._apply_template(messages, generate=True)
        self._check_bos(ids)
        return ids

    def render_pair(self, messages: Messages, completion: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a prompt and of a reply to it; joined, they are the rendered conversation.

        Raises:
            RenderError: as `render_prompt`, or `prompt_not_prefix`, or `eos` (the reply does not hold exactly one
                end, or more than white space follows the end).
        """
        prompt = self.render_prompt(messages)
        self._refuse_special(completion)
        full = self._apply_template([*messages, {"role": "assistant", "content": completion}], generate=False)
        self._check_bos(full)
        if full[: len(prompt)] != prompt:
            raise RenderError(
                "prompt_not_prefix", "the template renders the prompt differently once a reply follows"
            )
        reply = full[len(prompt) :]
        self.check_end(reply)
        return prompt, reply

    def decode_reply(self, token_ids: Sequence[int]) -> str:
        """Return a sampled reply as text, without the token that ends it.

        Any other control token stays in the text: the model has gone on into another turn, and `render_pair` refuses
        such a reply.
        """
        ids = list(token_ids[:-1] if token_ids and token_ids[-1] in self.ends else token_ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _apply_template(self, messages: Messages, *, generate: bool) -> list[int]:
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
        """Raise RenderError (`eos`) unless a reply holds exactly one end, followed by nothing but white space."""
        places = [i for i, token in enumerate(reply) if token in self.ends]
        if len(places) != 1:
            raise RenderError("eos", f"{len(places)} EOS tokens in a reply, not 1")
        rest = self.tokenizer.decode(reply[places[0] + 1 :])
        if rest.strip():
            raise RenderError("eos", f"{rest!r} follows the EOS of a reply")


def shorten(messages: Messages, fits: Callable[[Messages], bool]) -> tuple[list[Message], int] | None:
    """Drop the oldest turns until a prompt fits. A leading system message and the last user message always stay.

    Args:
        messages: a prompt, which ends with a user message.
        fits: whether a prompt is short enough. Where it holds for a prompt, it must hold for every shorter one.

    Returns:
        The shortened prompt and the number of messages dropped; None when even the shortest prompt does not fit.
    """
    head = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
    body = list(messages[len(head) :])
    starts = [i for i, message in enumerate(body) if message["role"] == "user"] or [0]
    if fits(messages):
        return list(messages), 0
    # Over the starts `fits` is False … False True … True: find the first True.
    first = bisect.bisect_left(starts, True, key=lambda start: fits([*head, *body[start:]]))
    if first == len(starts):
        return None
    return [*head, *body[starts[first] :]], starts[first]
