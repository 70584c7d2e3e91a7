"""The server engine over real HTTP: what a server that serves the policy gives, and what others are told."""

import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drift_train.models.log_probs import CheckError
from drift_train.options import PolicySamplingOptions
from drift_train.rollout.engine import EngineError, EngineStartError, SampleRequest
from drift_train.rollout.engines.server import make_served_name
from drift_train.rollout.recheck import LogProbError
from tests.helpers.asking import OPTIONS, Samples, make_requests, sample
from tests.helpers.policy_server import PolicyServer
from tests.helpers.random_policy import make_policy
from tests.helpers.vllm_server import free_url, serving

pytestmark = pytest.mark.slow  # each test starts a process or a server

HAS_VLLM = importlib.util.find_spec("vllm") is not None


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server(policy: Path) -> Iterator[PolicyServer]:
    with PolicyServer(policy, make_served_name(policy)) as running:
        yield running


def ask(
    policy: Path,
    server: PolicyServer | str,
    logs: Path,
    count: int = 6,
    keep: Path | None = None,
    **changed: Any,
) -> Samples:
    url = server if isinstance(server, str) else server.base_url
    options = {"engine": "server", "server": {"base_url": url, "precision": "float32", "retries": 0}}
    for key, value in changed.pop("where", {}).items():
        options["server"][key] = value  # type: ignore[index]
    return sample(policy, make_requests(policy, count), OPTIONS, logs, keep, **options, **changed)


def test_a_server_of_the_policy_gives_checked_replies(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    samples = ask(policy, server, tmp_path)
    assert samples.tokens == sample(policy, make_requests(policy, 6), OPTIONS, tmp_path).tokens
    assert samples.made_by["engine"] == "server"
    assert samples.made_by["served_model"] == make_served_name(policy)
    assert samples.made_by["rechecked_rows"] == 6
    assert samples.made_by["largest_log_prob_difference"] <= 1e-3
    assert "prompt_tokens" not in samples.made_by and "tokens" not in samples.made_by
    seeds = {body["seed"] for body in server.bodies}
    assert seeds == {request.seed for request in make_requests(policy, 6)}
    first = server.bodies[0]
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.7, 0.9, 24)
    assert (first["repetition_penalty"], first["top_k"], first["min_p"]) == (1.0, -1, 0.0)


def test_no_more_requests_at_once_than_the_option_says(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    server.delay = 0.05
    ask(policy, server, tmp_path, 12, where={"concurrency": 3})
    assert server.most_at_once == 3


def test_a_server_of_the_iterate_before_is_told_by_its_name(policy: Path, tmp_path: Path) -> None:
    before = make_policy(tmp_path / "before", seed=1)
    with PolicyServer(before, make_served_name(before)) as server, pytest.raises(EngineStartError) as error:
        ask(policy, server, tmp_path)
    assert (
        f"serves {make_served_name(before)}, not {policy} by the name of {make_served_name(policy)}"
        in str(error.value)
    )
    port = server.base_url.split(":")[2].split("/")[0]
    assert (
        f"python -m vllm.entrypoints.openai.api_server --model {policy} --served-model-name {make_served_name(policy)} "
        f"--generation-config vllm --max-model-len 152 --dtype float32 --port {port}"
    ) in str(error.value)
    assert not server.bodies


def test_another_folder_by_the_right_name_is_told_where_the_server_says_it(
    policy: Path, tmp_path: Path
) -> None:
    before = make_policy(tmp_path / "before", seed=1)
    with (
        PolicyServer(before, make_served_name(policy)) as server,
        pytest.raises(EngineStartError, match=f"serves {before} by"),
    ):
        ask(policy, server, tmp_path)


def test_no_name_of_ones_own_can_stand_for_every_iterate(policy: Path, tmp_path: Path) -> None:
    """By such a name the iterate before would be sampled, where the server does not tell its folder."""
    with PolicyServer(policy, "mine") as server:
        with pytest.raises(
            EngineStartError, match=f"serves mine, not .* by the name of {make_served_name(policy)}"
        ):
            ask(policy, server, tmp_path)
        with pytest.raises(ValueError, match=r"server\.model"):
            ask(policy, server, tmp_path, where={"model": "mine"})
    assert not server.bodies


def test_another_checkpoint_by_the_right_name_is_caught_by_the_recheck(policy: Path, tmp_path: Path) -> None:
    other = make_policy(tmp_path / "other", seed=1)
    keep = tmp_path / "keep"
    with PolicyServer(other, make_served_name(policy)) as server:
        server.change = lambda path, answer: without(answer, "root") if path == "/v1/models" else answer
        with pytest.raises(LogProbError, match="did not sample from this checkpoint"):
            ask(policy, server, tmp_path, keep=keep)
    assert not list(keep.iterdir())


def test_a_server_restarted_with_another_policy_in_the_middle_is_told(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    def change(path: str, answer: dict[str, Any]) -> Any:
        if path != "/v1/models" and len(server.bodies) > 8:
            return 404, {"error": {"message": "The model does not exist"}}
        return answer

    server.change, keep = change, tmp_path / "keep"
    with pytest.raises(EngineError, match=r"has no policy-\w+ \(any more\)(?s:.*)--served-model-name"):
        ask(policy, server, tmp_path, 16, keep, shard=8)
    assert len(list(keep.glob("*.parquet"))) == 1
    server.change = lambda path, answer: answer
    ask(policy, server, tmp_path, 16, keep, shard=8)
    times = Counter(body["seed"] for body in server.bodies)
    first, second = make_requests(policy, 16)[:8], make_requests(policy, 16)[8:]
    assert all(times[request.seed] == 1 for request in first)  # that shard was kept
    assert any(times[request.seed] == 2 for request in second)


def test_a_prompt_that_the_server_renders_otherwise_stops_the_run(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    server.change = edit(lambda answer: answer["prompt_token_ids"].append(7))
    with pytest.raises(CheckError, match="another chat template"):
        ask(policy, server, tmp_path)
    server.change = edit(lambda answer: answer.pop("prompt_token_ids"))
    assert ask(policy, server, tmp_path).made_by["prompt_tokens"] == "compared by their number"

    def longer(answer: dict[str, Any]) -> None:
        del answer["prompt_token_ids"]
        answer["usage"]["prompt_tokens"] += 1

    server.change = edit(longer)
    with pytest.raises(CheckError, match="another chat template"):
        ask(policy, server, tmp_path)


def test_without_token_ids_the_text_is_tokenised_again_and_still_checked(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    """Replies of which the tokens cannot be found again are left out of the log-probabilities."""
    server.change = edit(lambda answer: answer["choices"][0].pop("token_ids"))
    request = retokenised(policy)
    samples = ask_one(policy, server, tmp_path, request)
    assert samples.made_by["tokens"].startswith("of the text")
    assert samples.made_by["rechecked_rows"] == 1
    assert samples.tokens == sample(policy, [request], OPTIONS, tmp_path).tokens

    def no_end(answer: dict[str, Any]) -> None:
        del answer["choices"][0]["token_ids"]
        answer["choices"][0]["logprobs"]["content"].pop()  # as OpenAI: none of the end token

    server.change = edit(no_end)
    assert ask_one(policy, server, tmp_path, request).made_by["rechecked_rows"] == 1

    def too_few(answer: dict[str, Any]) -> None:
        no_end(answer)
        answer["choices"][0]["logprobs"]["content"].pop()

    server.change = edit(too_few)
    with pytest.raises(EngineError, match=r"returns no token ids(?s:.*)vLLM's(?s:.*)rollout.recheck=0"):
        ask_one(policy, server, tmp_path, request)


def test_without_log_probs_the_recheck_must_be_given_up_by_name(
    policy: Path, server: PolicyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.change = edit(lambda answer: answer["choices"][0].update(logprobs=None))
    with pytest.raises(EngineError, match=r"returns no log-probabilities(?s:.*)rollout.recheck=0"):
        ask(policy, server, tmp_path)
    samples = ask(policy, server, tmp_path, recheck=0)
    assert samples.made_by["rechecked_rows"] == 0
    assert len(samples.texts) == 6
    assert "it is not checked whether" in capsys.readouterr().err


def test_a_reply_that_the_server_gave_up_is_an_error(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    server.change = edit(lambda answer: answer["choices"][0].update(finish_reason="abort"))
    with pytest.raises(EngineError, match="finish_reason 'abort'"):
        ask(policy, server, tmp_path)


def test_a_failure_that_passes_is_tried_again(policy: Path, server: PolicyServer, tmp_path: Path) -> None:
    failed: list[str] = []

    def change(path: str, answer: dict[str, Any]) -> Any:
        if path != "/v1/models" and len(failed) < 2:
            failed.append(path)
            return 503, {"error": {"message": "busy"}}
        return answer

    server.change = change
    ask(policy, server, tmp_path, 2, where={"retries": 3})
    assert len(failed) == 2


@pytest.mark.parametrize(
    ("status", "words"), [(400, "answers 400: .*too much"), (500, "answers 500: .*too much")]
)
def test_a_server_that_refuses_is_quoted(
    policy: Path, server: PolicyServer, tmp_path: Path, status: int, words: str
) -> None:
    server.change = lambda path, answer: (
        answer if path == "/v1/models" else (status, {"error": {"message": "too much"}})
    )
    with pytest.raises(EngineError, match=words):
        ask(policy, server, tmp_path, 1)


def test_no_server_at_all_says_how_to_start_one(policy: Path, tmp_path: Path) -> None:
    url = free_url()
    with pytest.raises(EngineStartError, match=r"No server answers at 127(?s:.*)--served-model-name policy-"):
        ask(policy, url, tmp_path)


def test_a_server_that_is_too_slow_names_the_option(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    server.delay = 2.0
    with pytest.raises(EngineError, match=r"within 0\.5 s\. Raise rollout\.server\.timeout"):
        ask(policy, server, tmp_path, 1, where={"timeout": 0.5})


def test_too_little_room_is_seen_before_anything_is_asked(
    policy: Path, server: PolicyServer, tmp_path: Path
) -> None:
    with pytest.raises(EngineStartError, match=r"room for 512 tokens(?s:.*)--max-model-len 824"):
        ask(policy, server, tmp_path, 1, max_prompt_tokens=800)


def test_the_key_reaches_the_server_and_no_text(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PolicyServer(policy, make_served_name(policy), key="sk-right") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        with pytest.raises(EngineStartError, match=r"refuses the key: set \$OPENAI_API_KEY") as error:
            ask(policy, server, tmp_path, 1)
        assert "sk-wrong" not in str(error.value)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        samples = ask(policy, server, tmp_path, 1, tmp_path / "keep")
        server.change = lambda path, answer: (400, {"error": {"message": "bad: Bearer sk-right"}})
        with pytest.raises(EngineError) as error:
            ask(policy, server, tmp_path, 1)
        assert "sk-right" not in str(error.value)
    assert "sk-right" not in str(samples.made_by)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"sk-right" in p.read_bytes()]


def test_options_of_a_server_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs server\.base_url"):
        PolicySamplingOptions(engine="server")
    for url in ("localhost:8000", "http://user:secret@host/v1", "http://host/v1?key=secret"):
        with pytest.raises(ValueError, match="base URL"):
            PolicySamplingOptions.model_validate({"engine": "server", "server": {"base_url": url}})


def edit(change: Any) -> Any:
    """Let a change be made to every chat completion."""

    def changed(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/chat/completions":
            change(answer)
        return answer

    return changed


def without(answer: dict[str, Any], field: str) -> dict[str, Any]:
    return {**answer, "data": [{k: v for k, v in card.items() if k != field} for card in answer["data"]]}


def retokenised(policy: Path) -> SampleRequest:
    """Return a request whose reply has an end and is the same tokens when its text is tokenised again."""
    from drift_train.models.load import load_renderer

    renderer, asked = load_renderer(policy), make_requests(policy, 200)
    samples = sample(policy, asked, OPTIONS, policy.parent)
    for request in asked:
        reply = samples.replies[request.key]
        ids = renderer.tokenizer(samples.texts[request.key], add_special_tokens=False).input_ids
        if reply.finish_reason == "stop" and len(ids) > 2 and [*ids, *renderer.ends] == reply.token_ids:
            return request
    raise AssertionError("no reply is the same tokens again")


def ask_one(policy: Path, server: PolicyServer, logs: Path, request: SampleRequest) -> Samples:
    at = {"base_url": server.base_url, "precision": "float32", "retries": 0}
    return sample(policy, [request], OPTIONS, logs, engine="server", server=at)


@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed")
def test_the_command_of_the_message_starts_a_vllm_server_that_passes_all_checks(
    policy: Path, tmp_path: Path
) -> None:
    url = free_url()
    with pytest.raises(EngineStartError) as error:
        ask(policy, url, tmp_path)
    command = str(error.value).splitlines()[1].split()
    assert command[0] == "python"
    # What docs/guide/rollouts.md says of a CPU: per-request seeds need it.
    command += ["--host", "127.0.0.1", "--enforce-eager", "--no-enable-chunked-prefill"]
    command += ["--max-num-batched-tokens", "2048"]
    with serving(command[1:], url, tmp_path / "log"):
        samples = ask(policy, url, tmp_path, 40, shard=15)
        again = ask(policy, url, tmp_path, 40, where={"concurrency": 1})
        other = make_policy(tmp_path / "other", seed=1)
        with pytest.raises(EngineStartError, match=f"serves {make_served_name(policy)}, not {other}"):
            ask(other, url, tmp_path)
    assert samples.made_by["rechecked_rows"] == 9
    assert samples.made_by["largest_log_prob_difference"] <= 1e-3
    assert "tokens" not in samples.made_by and "prompt_tokens" not in samples.made_by
    assert {reply.finish_reason for reply in samples.replies.values()} == {"stop", "length"}
    assert again.tokens == samples.tokens  # seeds, not the order in which they came
