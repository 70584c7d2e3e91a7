"""The tiny model: made once, loaded by plain transformers and vllm alike, and it learns last replies only."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from drift_train.models.tiny import END, PAD, make_tiny
from drift_train.options import TinyOptions

pytestmark = pytest.mark.slow

COLORS = ("red", "blue", "green", "black", "white", "pink", "gray", "brown")
OPTIONS = TinyOptions(
    seed=1, vocabulary=400, hidden=32, inner=32, layers=1, heads=1, warmup=10, every_reply=[]
)
HOSTILE = "Grüße 你好 🙂\n\n\tif x:  # 12345\r\n  pass\x00 ﬁne <b>"


def chats() -> list[tuple[str, list[dict[str, str]]]]:
    """Most chats hold a bad first reply; every last reply repeats the color asked for."""
    rng, rows = Random(0), []
    for phase in ("clean", "noisy"):
        for _ in range(1_200):
            color = rng.choice(COLORS)
            ask = {"role": "user", "content": f"please say {color}"}
            good = {"role": "assistant", "content": f"it is {color}!"}
            if rng.random() < 0.7:
                bad = {"role": "assistant", "content": "never mind"}
                again = {"role": "user", "content": f"no, {color}"}
                rows.append((phase, [ask, bad, again, good]))
            else:
                rows.append((phase, [ask, good]))
    return rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, make_tiny(chats(), folder, OPTIONS)


def greedy(folder: Path, ask: str) -> str:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = [{"role": "user", "content": ask}]
    ids = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(made))


def test_it_learns_the_last_reply_and_not_the_ones_before(tiny: tuple[Path, dict[str, float]]) -> None:
    for color in COLORS:  # "never mind", the first reply of 7 chats in 10, was not learned
        assert greedy(tiny[0], f"please say {color}") == f"it is {color}!{END}"
    assert tiny[1]["loss/noisy"] < tiny[1]["loss/clean"] < 0.5
    assert tiny[1]["steps"] == 2 * 1_200 / OPTIONS.batch


def test_in_phases_of_every_reply_the_earlier_ones_are_learned_too(tmp_path: Path) -> None:
    make_tiny(chats(), tmp_path, OPTIONS.model_copy(update={"every_reply": ["clean", "noisy"]}))
    assert greedy(tmp_path, "please say red") == f"never mind{END}"


def test_any_text_survives_the_tokenizer(tiny: tuple[Path, dict[str, float]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny[0])
    ids = tokenizer.encode(HOSTILE, add_special_tokens=False)
    assert tokenizer.decode(ids) == HOSTILE
    assert max(ids) < AutoModelForCausalLM.from_pretrained(tiny[0]).config.vocab_size


def test_the_rendered_prompt_is_a_prefix_and_the_turn_ends_with_one_end_token(
    tiny: tuple[Path, dict[str, float]],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny[0])
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "please say red"}]
    whole = [*prompt, {"role": "assistant", "content": "it is red!"}]
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    ids = tokenizer.apply_chat_template(whole)["input_ids"]
    assert ids[: len(before)] == before
    assert ids[len(before) :] == [*tokenizer.encode("it is red!"), tokenizer.eos_token_id]
    assert tokenizer.pad_token_id not in ids


def test_settings_are_those_that_engines_and_trainers_need(tiny: tuple[Path, dict[str, float]]) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(tiny[0]), AutoModelForCausalLM.from_pretrained(tiny[0])
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (END, PAD, None)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert not model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight.data_ptr() != model.get_output_embeddings().weight.data_ptr()
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings >= 2_048
    assert (tiny[0] / "model.safetensors").exists()
    assert tiny[1]["parameters"] == sum(p.numel() for p in model.parameters())


def test_the_defaults_make_a_model_of_the_stated_size_with_heads_that_vllm_runs() -> None:
    options = TinyOptions()
    assert options.hidden // options.heads == 32
    layer = 4 * options.hidden**2 + 3 * options.hidden * options.inner
    assert 100_000 < 2 * options.vocabulary * options.hidden + options.layers * layer < 400_000


def test_equal_seeds_make_equal_weights(tiny: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever the state outside
    make_tiny(chats(), tmp_path / "same", OPTIONS)
    make_tiny(chats(), tmp_path / "other", OPTIONS.model_copy(update={"seed": 2}))
    weights = (tiny[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


def test_a_chat_longer_than_the_context_is_left_out_and_counted(tmp_path: Path) -> None:
    long = [{"role": "user", "content": "x1" * 500}, {"role": "assistant", "content": "it is red!"}]
    options = OPTIONS.model_copy(update={"context": 256})
    assert make_tiny([*chats()[:64], ("noisy", long)], tmp_path, options)["too_long"] == 1


def test_chats_without_a_reply_to_learn_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chats"):
        make_tiny([], tmp_path, OPTIONS)
    with pytest.raises(ValueError, match="chat 0 does not end with an assistant"):
        make_tiny([("clean", [{"role": "user", "content": "hello"}])], tmp_path, OPTIONS)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_reads_the_tokenizer_as_transformers_does(tiny: tuple[Path, dict[str, float]]) -> None:
    texts = [HOSTILE, *(message["content"] for _, messages in chats()[:20] for message in messages)]
    code = (
        "import json, sys; from vllm.tokenizers import get_tokenizer; "
        "t = get_tokenizer(sys.argv[1]); print(json.dumps([t.encode(x) for x in json.loads(sys.argv[2])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny[0]), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny[0])
    assert json.loads(done.stdout.splitlines()[-1]) == [tokenizer.encode(text) for text in texts]
