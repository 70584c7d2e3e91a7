"""Small reward models with random weights, made on the spot: a DeBERTa that takes two texts, a Qwen2 with a chat
template.
"""

from __future__ import annotations

from pathlib import Path

from tests.helpers.random_policy import TEMPLATE, WORDS, make_policy


def make_pair_reward(folder: Path, *, outputs: int = 1, context: int = 48) -> Path:
    """Write a sequence classifier of the kind of OpenAssistant's: a DeBERTa-v2, here with whole words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast

    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split()])
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        initializer_range=0.5,
        pad_token_id=0,
        num_labels=outputs,
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_chat_reward(
    folder: Path, *, context: int = 64, pad: int | None = 0, template: str = TEMPLATE
) -> Path:
    """Write a sequence classifier on top of a decoder, whose tokenizer has a chat template."""
    import torch
    from transformers import AutoConfig, Qwen2ForSequenceClassification

    make_policy(folder, context=context, template=template)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels, config.pad_token_id, config.initializer_range = 1, pad, 0.5
    torch.manual_seed(0)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    return folder
