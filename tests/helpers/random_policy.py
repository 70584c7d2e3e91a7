"""A small untied Qwen2 with a byte-level BPE tokenizer and a chat template, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = (
    "please list three red fruits apple pear plum one two four blue fish sorry no that is wrong again thanks"
)


def make_policy(
    folder: Path,
    *,
    seed: int = 0,
    template: str | None = TEMPLATE,
    pad: str = "<|pad|>",
    context: int = 512,
) -> Path:
    """Write a model of 0.1M parameters that plain transformers and vllm load; weights large enough to have
    opinions.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([WORDS, "system user assistant"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token=pad)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,  # heads of 32: vLLM on the CPU has no kernel for 16
        max_position_embeddings=context,
        tie_word_embeddings=False,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    _teach_to_end(model, tokenizer)
    model.save_pretrained(folder)
    return folder


def _teach_to_end(model: Any, tokenizer: Any) -> None:
    """Train a few steps on short replies, so that samples end by themselves; what they say stays varied."""
    import torch

    replies = ["apple pear", "one two four", "plum", "blue fish thanks", "red fruits", "sorry no"]
    rows = [tokenizer(f"<|im_start|>assistant\n{reply}<|im_end|>").input_ids for reply in replies]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
