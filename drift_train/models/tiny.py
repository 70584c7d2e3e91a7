"""Makes and pre-trains a tiny chat model on the spot; `transformers` and `vllm` load it like any other.

The model is a Qwen2 of about 0.2M parameters. Its vocabulary is byte-level, so any text can be fed to it.
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
# White space after the end of a turn would train the model to go on after it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_VOCABULARY_CHATS = 4_000  # number of chats, the first ones, that the vocabulary is learned from
_BATCHES_SORTED_TOGETHER = 40  # number of batches whose chats are sorted by length together
_ROUND_TRIP_TEXT = "Grüße, 你好 🙂\n\tdef f(x): return x**2  # 1234"


def make_tiny(
    chats: Iterable[tuple[str, list[dict[str, str]]]], folder: Path, options: TinyOptions
) -> dict[str, float]:
    """Train a tiny model on chats and write it, with its tokenizer, into a folder.

    Args:
        chats: (phase, messages); phases are learned in the order in which they first appear. Every chat ends with
            an assistant message. In the phases of `options.every_reply` all assistant messages are learned; in the
            others only the last one is, and the rest is context.
        folder: gets safetensors, config, generation config, tokenizer and chat template.
        options: shape and training.

    Returns:
        `parameters`, `steps` and `tokens` are counts. `loss/<phase>` is the mean loss of the last tenth of a phase.
        `too_long` counts the chats left out because they are longer than the context.

    Raises:
        ValueError: there are no chats, or one does not end with an assistant message.
    """
    rows = list(chats)
    if not rows:
        raise ValueError("no chats to learn from")
    for number, (_, messages) in enumerate(rows):
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError(f"chat {number} does not end with an assistant message")
    tokenizer = _make_tokenizer([messages for _, messages in rows[:_VOCABULARY_CHATS]], folder, options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # at this size a second thread makes training slower
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model = Qwen2ForCausalLM(_make_config(tokenizer, options))
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
    """Learn a byte-level vocabulary, save it as a tokenizer, and return the tokenizer as it loads back.

    The tokenizer is a `Qwen2Tokenizer`, since the folder holds a Qwen2 model: of any other kind `AutoTokenizer` would
    silently make a Qwen2 one, which splits text differently.
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
    if loaded.decode(loaded.encode(_ROUND_TRIP_TEXT)) != _ROUND_TRIP_TEXT:
        raise RuntimeError(f"the tokenizer in {folder} does not survive a round trip")
    for messages in chats[:50]:
        text = _render_chat(messages)
        if loaded.encode(text) != made.encode(text):
            raise RuntimeError(f"the tokenizer in {folder} does not load as it was made: {text!r}")
        if loaded.apply_chat_template(list(messages), tokenize=False) != text:
            raise RuntimeError("the chat template and the text the model is trained on differ")
    return loaded


def _render_chat(messages: Messages) -> str:
    return "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)


def _make_config(tokenizer: Any, options: TinyOptions) -> Qwen2Config:
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
    """Train one pass over the chats, phase by phase; return steps, tokens and the loss at the end of each phase."""
    examples: dict[str, list[TokenizedChat]] = {phase: [] for phase, _ in rows}
    for phase, messages in rows:
        example = _tokenize_chat(tokenizer, messages, phase in options.every_reply)
        if len(example[0]) <= options.context:
            examples[phase].append(example)
    order = torch.Generator().manual_seed(options.seed)
    batches = [
        (phase, batch)
        for phase in examples
        for batch in _group_by_length(examples[phase], options.batch, order)
    ]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = get_linear_schedule_with_warmup(optimizer, options.warmup, len(batches))
    model.train()
    losses: dict[str, list[float]] = {phase: [] for phase in examples}
    tokens = 0
    for phase, batch in tqdm(batches, desc="tiny model", unit="step", mininterval=0.5):
        ids, targets = _pad_batch(batch, tokenizer.pad_token_id)
        hidden = model.model(input_ids=ids).last_hidden_state  # (batch, seq, hidden); padding is on the right
        learned = targets != -100  # (batch, seq); logits are made only where a token is learned
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


TokenizedChat = tuple[list[int], list[int]]  # tokens; for each, the token to predict after it, or -100


def _tokenize_chat(tokenizer: Any, messages: Messages, every_reply: bool) -> TokenizedChat:
    """Return a chat's tokens and targets. Each message is tokenised by itself, since special tokens part the messages."""
    ids: list[int] = []
    learned: list[bool] = []
    for number, message in enumerate(messages):
        content = [*tokenizer.encode(message["content"]), tokenizer.eos_token_id]
        ids += [tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>"), *content]
        learn = message["role"] == "assistant" and (every_reply or number == len(messages) - 1)
        learned += [False, *([learn] * len(content))]
    return ids, [t if learn else -100 for t, learn in zip(ids[1:], learned[1:], strict=True)] + [-100]


def _group_by_length(
    examples: list[TokenizedChat], size: int, generator: torch.Generator
) -> Iterator[list[TokenizedChat]]:
    """Yield batches of chats of similar length, so that little is padded, in random order."""
    order = torch.randperm(len(examples), generator=generator).tolist()
    for start in range(0, len(order), size * _BATCHES_SORTED_TOGETHER):
        bucket = sorted(
            (examples[i] for i in order[start : start + size * _BATCHES_SORTED_TOGETHER]),
            key=lambda e: len(e[0]),
        )
        starts = list(range(0, len(bucket), size))
        for i in torch.randperm(len(starts), generator=generator).tolist():
            yield bucket[starts[i] : starts[i] + size]


def _pad_batch(batch: Sequence[TokenizedChat], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and targets, padded on the right; both (batch, seq)."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), pad)
    targets = torch.full((len(batch), longest), -100)
    for row, (tokens, target) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, : len(target)] = torch.tensor(target)
    return ids, targets
