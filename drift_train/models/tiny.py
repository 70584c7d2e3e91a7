"""A tiny chat model, made and pre-trained on the spot, that `transformers` and `vllm` load like any other.

A Qwen2 of about 0.2M parameters with a byte-level vocabulary, so that any text can be fed to it. This module
knows nothing of what the chats are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    get_linear_schedule_with_warmup,
)

from drift_data.schema import ROLES
from drift_train.models.render import Messages
from drift_train.options import TinyOptions

END, PAD = "<|end|>", "<|pad|>"
# No white space after the end of a turn, or the model would be trained to go on after it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_TEXT_SAMPLE = 4_000  # chats the vocabulary is learned from
_BUCKET = 40  # batches that are sorted by length together
_ANY_TEXT = "Grüße, 你好 🙂\n\tdef f(x): return x**2  # 1234"


def make_tiny(
    chats: Iterable[tuple[str, list[dict[str, str]]]], folder: Path, options: TinyOptions
) -> dict[str, float]:
    """Train a tiny model on chats and write it, with its tokenizer, into a folder.

    Args:
        chats: (phase, messages), phases in the order they are to be learned. Every chat ends with an
            assistant message; in the phases of `options.every_reply` all assistant messages are learned, in the
            others the last one, and the rest is context.
        folder: where safetensors, config, generation config, tokenizer and chat template go.
        options: shape and training.

    Returns:
        parameters, steps, tokens, the mean loss of each phase's last tenth as `loss/<phase>`, and
        the number of chats left out because they are longer than the context as `too_long`.

    Raises:
        ValueError: there are no chats, or one does not end with an assistant message.
    """
    rows = list(chats)
    if not rows:
        raise ValueError("no chats to learn from")
    for number, (_, messages) in enumerate(rows):
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError(f"chat {number} does not end with an assistant message")
    tokenizer = _make_tokenizer([messages for _, messages in rows[:_TEXT_SAMPLE]], folder, options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # at this size a second thread only gets in the way
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model = Qwen2ForCausalLM(_config(tokenizer, options))
            figures = _train(model, tokenizer, rows, options)
    finally:
        torch.set_num_threads(threads)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    return {
        "parameters": float(model.num_parameters()),
        **figures,
    }


def _make_tokenizer(chats: Sequence[Messages], folder: Path, options: TinyOptions) -> Any:
    """Learn a byte-level vocabulary, save it, and return it as it loads back.

    It is of the kind that a folder of a Qwen2 model is expected to hold: with any other, `AutoTokenizer`
    would silently build one that splits text differently.
    """
    special = [PAD, *(f"<|{role}|>" for role in ROLES)]
    texts = [[message["content"] for message in messages] for messages in chats]
    made = Qwen2Tokenizer(eos_token=END, pad_token=PAD, unk_token=END).train_new_from_iterator(
        texts, options.vocabulary, new_special_tokens=special, show_progress=False
    )
    made.chat_template = CHAT_TEMPLATE
    made.model_max_length = options.context
    made.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    if loaded.decode(loaded.encode(_ANY_TEXT)) != _ANY_TEXT:
        raise RuntimeError(f"the tokenizer in {folder} does not survive a round trip")
    for messages in chats[:50]:
        text = _render(messages)
        if loaded.encode(text) != made.encode(text):
            raise RuntimeError(f"the tokenizer in {folder} does not load as it was made: {text!r}")
        if loaded.apply_chat_template(list(messages), tokenize=False) != text:
            raise RuntimeError("the chat template and the text the model is trained on differ")
    return loaded


def _render(messages: Messages) -> str:
    return "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)


def _config(tokenizer: Any, options: TinyOptions) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=options.inner,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=options.context,
        initializer_range=options.init_range,
        tie_word_embeddings=False,  # vllm reloads tied weights wrongly
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def _train(
    model: Any, tokenizer: Any, rows: Sequence[tuple[str, Messages]], options: TinyOptions
) -> dict[str, float]:
    """Train one pass, phase by phase. Returns steps, tokens and the loss each phase ended with."""
    examples: dict[str, list[Example]] = {phase: [] for phase, _ in rows}
    for phase, messages in rows:
        example = _example(tokenizer, messages, phase in options.every_reply)
        if len(example[0]) <= options.context:
            examples[phase].append(example)
    order = torch.Generator().manual_seed(options.seed)
    batches = [
        (phase, batch) for phase in examples for batch in _batches(examples[phase], options.batch, order)
    ]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = get_linear_schedule_with_warmup(optimizer, options.warmup, len(batches))
    model.train()
    losses: dict[str, list[float]] = {phase: [] for phase in examples}
    tokens = 0
    for phase, batch in tqdm(batches, desc="tiny model", unit="step", mininterval=0.5):
        ids, targets = _pad(batch, tokenizer.pad_token_id)
        hidden = model.model(input_ids=ids).last_hidden_state  # (batch, seq, hidden); padding is on the right
        learned = targets != -100  # logits are only made where something is learned
        loss = functional.cross_entropy(model.lm_head(hidden[learned]), targets[learned])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses[phase].append(loss.item())
        tokens += sum(len(example[0]) for example in batch)
    model.eval()
    tails = {phase: values[-max(1, len(values) // 10) :] for phase, values in losses.items() if values}
    return {
        "steps": float(len(batches)),
        "tokens": float(tokens),
        "too_long": float(len(rows) - sum(map(len, examples.values()))),
        **{f"loss/{phase}": sum(tail) / len(tail) for phase, tail in tails.items()},
    }


Example = tuple[list[int], list[int]]  # tokens; of each, the token to predict after it or -100


def _example(tokenizer: Any, messages: Messages, every_reply: bool) -> Example:
    """Return a chat's tokens and targets. Special tokens part the messages, so each is split by itself."""
    ids: list[int] = []
    learned: list[bool] = []
    for number, message in enumerate(messages):
        content = [*tokenizer.encode(message["content"]), tokenizer.eos_token_id]
        ids += [tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>"), *content]
        learn = message["role"] == "assistant" and (every_reply or number == len(messages) - 1)
        learned += [False, *([learn] * len(content))]
    return ids, [t if learn else -100 for t, learn in zip(ids[1:], learned[1:], strict=True)] + [-100]


def _batches(examples: list[Example], size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """Shuffle, then group examples of like length, so that little is padded; batches come in random order."""
    order = torch.randperm(len(examples), generator=generator).tolist()
    for start in range(0, len(order), size * _BUCKET):
        bucket = sorted((examples[i] for i in order[start : start + size * _BUCKET]), key=lambda e: len(e[0]))
        starts = list(range(0, len(bucket), size))
        for i in torch.randperm(len(starts), generator=generator).tolist():
            yield bucket[starts[i] : starts[i] + size]


def _pad(batch: Sequence[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and targets, padded on the right; both (batch, seq)."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), pad)
    targets = torch.full((len(batch), longest), -100)
    for row, (tokens, target) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, : len(target)] = torch.tensor(target)
    return ids, targets
