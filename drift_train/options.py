"""The options of rollouts, pairs, training and evaluation; their defaults are the paper's values. Imports no torch.

Each option names its source: "paper" is arXiv 2510.02341, "release" is the authors' code, "ours" is neither. The options
of a whole run, `LoopOptions`, stand in `drift_train.methods.options`: the method that they name completes them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EngineName = Literal["auto", "vllm", "server", "transformers"]
MethodName = Literal["drift", "spin", "iterdpo"]
ExamplesName = Literal["logs", "preferences"]

# Default of `rollout.instruction`: what the user is made to ask for after the complaint.
INSTRUCTION = (
    "Taking the comment above into account, answer my earlier request again, from the beginning and in full. "
    "Give only the new answer: no apology, and no mention of the previous one."
)

# Values of `json_schema_extra`: where a default comes from. `make recipe` and the reference of options show them.
OURS: dict[str, Any] = {"source": "ours"}
RELEASE: dict[str, Any] = {"source": "release"}


def from_paper(where: str) -> dict[str, Any]:
    """Return the source of an option that stands in the paper, e.g. "app. D"."""
    return {"source": "paper", "where": where}


def from_release(where: str) -> dict[str, Any]:
    """Return the source of an option that stands in the authors' code, with a remark on where or how."""
    return {"source": "release", "where": where}


class PolicyServerOptions(BaseModel):
    """An OpenAI-compatible server that serves the policy. The key comes from $OPENAI_API_KEY, if the server wants one."""

    model_config = ConfigDict(extra="forbid")

    base_url: str = Field(
        description="Address of the server's API, such as http://localhost:8000/v1.", json_schema_extra=OURS
    )
    precision: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Precision that the server computes in; decides how closely its log-probabilities must agree with "
        "a plain forward.",
        json_schema_extra=OURS,
    )
    concurrency: int = Field(default=64, ge=1, description="Requests sent at once.", json_schema_extra=OURS)
    timeout: float = Field(
        default=600.0, gt=0, description="Seconds to wait for one reply.", json_schema_extra=OURS
    )
    retries: int = Field(
        default=5,
        ge=0,
        description="How often a request is sent again after a connection error, status 429 or status 5xx.",
        json_schema_extra=OURS,
    )

    @field_validator("base_url")
    @classmethod
    def _require_plain_address(cls, value: str) -> str:
        address = urlsplit(value)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("a base URL looks like http://localhost:8000/v1")
        if address.username or address.password or address.query:
            raise ValueError("a base URL carries no credentials: put the key into $OPENAI_API_KEY")
        return value


# Arguments of `vllm.LLM` that say where and how fast vLLM computes. They change replies by rounding at most.
_VLLM_PLACEMENT = {
    "cpu_offload_gb",
    "disable_custom_all_reduce",
    "distributed_executor_backend",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
    "tensor_parallel_size",
}


class PolicySamplingOptions(BaseModel):
    """How replies are sampled from a policy, for rollouts and for evaluation."""

    model_config = ConfigDict(extra="forbid")
    _not_in_identity: ClassVar[tuple[str, ...]] = ("shard", "batch_size", "server")  # they change no reply

    engine: EngineName = Field(
        default="auto",
        description="What samples: vllm in a process of its own, a server, or transformers in this process. auto takes "
        "vllm where it is installed and starts, else transformers, and says so on stderr.",
        json_schema_extra=OURS,
    )
    temperature: float = Field(
        default=0.7,
        ge=0,
        description="Sampling temperature; 0 takes the most probable token.",
        json_schema_extra=RELEASE,
    )
    top_p: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Sampling draws from the most probable tokens that together have this probability.",
        json_schema_extra=RELEASE,
    )
    max_new_tokens: int = Field(
        default=512,
        ge=1,
        description="Longest sampled reply, in tokens; a longer one is cut and never trained on.",
        json_schema_extra=RELEASE,
    )
    max_prompt_tokens: int = Field(
        default=2048,
        ge=1,
        description="Longest prompt of a sampled reply, in tokens.",
        json_schema_extra=from_release("(the input length of the rollout prompt)"),
    )
    samples: int = Field(
        default=1,
        ge=1,
        description="Replies sampled for one prompt.",
        json_schema_extra=from_release("(one reply a prompt)"),
    )
    seed: int = Field(
        default=42,
        description="Seed of the sampling; each request gets a seed of its own from it. 42 is the seed of the release's "
        "training; its sampling has none.",
        json_schema_extra=OURS,
    )
    recheck: int = Field(
        default=8,
        ge=0,
        description="Replies whose log-probabilities are computed again by a plain forward, at least one for each "
        "shard; 0 checks none.",
        json_schema_extra=OURS,
    )
    vllm: dict[str, Any] = Field(
        default={},
        description="Further arguments of `vllm.LLM`, e.g. tensor_parallel_size.",
        json_schema_extra=OURS,
    )
    # The options below decide how replies are computed, not which replies: see `identity`.
    shard: int = Field(
        default=2_000,
        ge=1,
        description="Requests that are sampled and kept together; a killed run samples at most two shards again.",
        json_schema_extra=OURS,
    )
    batch_size: int = Field(
        default=32,
        ge=1,
        description="Replies that the transformers engine samples at once; vllm batches by itself.",
        json_schema_extra=OURS,
    )
    server: PolicyServerOptions | None = Field(
        default=None, description="The server of the server engine.", json_schema_extra=OURS
    )

    @model_validator(mode="after")
    def _require_working_engine(self) -> Self:
        if self.engine == "server" and self.server is None:
            raise ValueError("engine: server needs server.base_url, e.g. http://localhost:8000/v1")
        if int(self.vllm.get("data_parallel_size", 1)) > 1:
            raise ValueError(
                "vllm has no data parallelism within one process. Start its server with --data-parallel-size and "
                "take engine: server; or split the model instead: vllm.tensor_parallel_size"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what determines the replies, as JSON: a stage is made again when it has changed.

        Excludes everything that a user may change before resuming: shard and batch sizes, the server's address, where
        vLLM computes, and the *number* of rechecked replies. Whether any reply is rechecked at all is included:
        unchecked replies must not be reused as checked ones.
        """
        options = self.model_dump(mode="json", exclude=set(self._not_in_identity))
        options["recheck"] = self.recheck > 0
        options["vllm"] = {name: value for name, value in self.vllm.items() if name not in _VLLM_PLACEMENT}
        return options


class RolloutOptions(PolicySamplingOptions):
    """Which examples an iteration takes, and what the policy is shown."""

    # `select` chooses among the replies that were sampled, so it belongs to the pairs.
    _not_in_identity: ClassVar[tuple[str, ...]] = (*PolicySamplingOptions._not_in_identity, "select")

    guidance: bool | None = Field(
        default=None,
        description="true shows the policy the prompt, the failing reply, the complaint and the instruction (release); "
        "false shows the prompt alone (the paper's ablation); null lets the method decide as table 1 of the paper does "
        "for each method and kind of examples.",
        json_schema_extra=from_paper("table 1"),
    )
    instruction: str = Field(
        default=INSTRUCTION,
        min_length=1,
        description="What a guided prompt makes the user ask for after the complaint. The idea is the paper's, the words "
        "are ours.",
        json_schema_extra=OURS,
    )
    examples: int | None = Field(
        default=None,
        ge=1,
        description="Examples that an iteration takes; null takes all. The paper's controlled setting takes about "
        "4000.",
        json_schema_extra=from_paper("(the full setting)"),
    )
    fresh: bool = Field(
        default=True,
        description="Matters only where examples is a number: true takes the k-th slice of one fixed shuffle in "
        "iteration k; false takes the first slice in every iteration.",
        json_schema_extra=OURS,
    )
    select: Literal["first", "best"] = Field(
        default="first",
        description="Which of several samples becomes a side of the pair. first: the first that passes the pair filters; "
        "best: among those that pass, the one with the highest reward (loop.reward).",
        json_schema_extra=OURS,
    )


class PairOptions(BaseModel):
    """Which pairs are kept."""

    model_config = ConfigDict(extra="forbid")

    drop_leaks: bool = Field(
        default=True,
        description="Drop a pair whose chosen reply speaks of an earlier reply that the training prompt does not show. "
        "The release filters nothing.",
        json_schema_extra=OURS,
    )
    drop_leaks_in_seed: bool = Field(
        default=False,
        description="Drop such pairs from the seed pairs of the warm start as well.",
        json_schema_extra=from_paper("(it names no filter of seed pairs)"),
    )


class LoraOptions(BaseModel):
    """Low-rank adapters on every linear layer but the head; the saved model has them merged in."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(default=16, ge=1, description="Rank of the adapters.", json_schema_extra=OURS)
    alpha: float = Field(
        default=32, gt=0, description="The update is scaled by alpha / rank.", json_schema_extra=OURS
    )


class TrainOptions(BaseModel):
    """The options of one DPO training. The defaults are those of an iteration in the paper."""

    model_config = ConfigDict(extra="forbid")

    beta: float = Field(
        default=0.1,
        gt=0,
        description="DPO's β: how strongly the policy is held to the reference.",
        json_schema_extra=from_paper("eq. 2, app. D; release"),
    )
    loss: Literal["sigmoid", "sigmoid_norm"] = Field(
        default="sigmoid",
        description="sigmoid is DPO's loss. sigmoid_norm works against growing length: it divides each reply's "
        "log-ratio by its number of tokens, so beta needs another scale: about 2 or more.",
        json_schema_extra=from_paper("eq. 2"),
    )
    ld_alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Against growing length (LD-DPO): weight below 1 of the tokens past the shorter reply's length; "
        "null is plain DPO.",
        json_schema_extra=from_paper("eq. 2"),
    )
    alpha: float = Field(
        default=0.001,
        ge=0,
        description="Weight of the chosen reply's negative log-likelihood beside the DPO loss; 0 is plain DPO.",
        json_schema_extra=from_release(
            "rpo_alpha; the paper's appendix lists an RPO row apart, so its main rows may do without this term"
        ),
    )
    learning_rate: float = Field(
        default=5e-7,
        ge=0,
        description="Learning rate after the warm-up; 0 changes no weight, for a control arm.",
        json_schema_extra=from_paper("app. D"),
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        default="linear",
        description="How the learning rate falls after the warm-up.",
        json_schema_extra=from_paper("app. D"),
    )
    warmup_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the steps in which the learning rate rises from 0. A training of fewer than 10 steps has "
        "no warm-up.",
        json_schema_extra=from_paper("app. D"),
    )
    optimizer: Literal["rmsprop", "adamw_torch"] = Field(
        default="rmsprop", description="Optimizer of the weights.", json_schema_extra=from_paper("app. D")
    )
    epochs: float = Field(
        default=1,
        gt=0,
        description="Passes over the pairs: 1 for an iteration, 3 for the warm start.",
        json_schema_extra=from_paper("app. D"),
    )
    global_batch: int = Field(
        default=32,
        ge=1,
        description="Pairs in one optimizer step, over all devices.",
        json_schema_extra=from_release("(4 a device × 8 devices, no accumulation)"),
    )
    per_device_batch: int = Field(
        default=4,
        ge=1,
        description="Pairs in one forward of a device; the rest of global_batch is accumulated.",
        json_schema_extra=RELEASE,
    )
    max_length: int = Field(
        default=2048,
        ge=2,
        description="Longest prompt and reply together, in tokens; a pair that does not fit is dropped before the "
        "training, never cut.",
        json_schema_extra=RELEASE,
    )
    max_grad_norm: float = Field(
        default=1.0,
        ge=0,
        description="Norm that gradients are clipped to; 0 clips nothing.",
        json_schema_extra=from_release("(the Trainer's default, which it keeps)"),
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto",
        description="bf16 is autocast over float32 master weights (paper: bf16); auto is bf16 on a GPU and float32 on "
        "a CPU.",
        json_schema_extra=OURS,
    )
    reference: Literal["previous", "base"] = Field(
        default="previous",
        description="DPO's reference model: the policy that the iteration starts from, or the base model.",
        json_schema_extra=from_paper("sec. 3"),
    )
    reference_log_probs: Literal["precompute", "live"] = Field(
        default="precompute",
        description="precompute runs the reference before the first step and lets it go; live holds it beside the "
        "policy, as the release does. The numbers are the same.",
        json_schema_extra=OURS,
    )
    lora: LoraOptions | None = Field(
        default=None,
        description="Train low-rank adapters; null trains all weights, as the paper does.",
        json_schema_extra=from_release("(all weights are trained)"),
    )
    seed: int = Field(
        default=42, description="Seed of the order of pairs and of the adapters.", json_schema_extra=RELEASE
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of torch on the CPU; null leaves torch's own number.",
        json_schema_extra=OURS,
    )
    # The options below change no result: a run that was cut may go on with other values.
    gradient_checkpointing: bool = Field(
        default=True,
        description="Compute activations again in the backward pass instead of keeping them: less memory, more time.",
        json_schema_extra=RELEASE,
    )
    report_to: list[str] = Field(
        default=[],
        description="Trackers that get the metrics beside metrics.jsonl: trackio, wandb, tensorboard, …",
        json_schema_extra=OURS,
    )
    checkpoint_steps: int = Field(
        default=100,
        ge=1,
        description="Steps between two checkpoints, from which a killed run goes on; a training of no more steps than "
        "this keeps none.",
        json_schema_extra=OURS,
    )
    launch: str | None = Field(
        default=None,
        description="Accelerate configuration for several devices: the name of a shipped one, such as gpus8-fsdp2, or a "
        "file. Further arguments of `accelerate launch` may follow it. null trains in this process.",
        json_schema_extra=OURS,
    )

    def identity(self) -> dict[str, Any]:
        """Return what determines the trained model, as JSON: a stage is made again when it has changed.

        `precision: auto` stays "auto", so that a model that a GPU trained is not made again on a machine without one.
        The manifest says which precision it was; a training that was cut resumes only in the same precision.
        """
        changes_no_result = {"gradient_checkpointing", "report_to", "checkpoint_steps", "launch"}
        return self.model_dump(mode="json", exclude=changes_no_result)

    @model_validator(mode="after")
    def _require_dividing_batches(self) -> Self:
        if self.global_batch % self.per_device_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of per_device_batch {self.per_device_batch}"
            )
        return self


def make_warm_start_options() -> TrainOptions:
    """Return the paper's options of the warm start: those of an iteration, but 3 epochs (app. D)."""
    return TrainOptions(epochs=3)


class HealthOptions(BaseModel):
    """How much of an iteration's rollouts is measured after its training."""

    model_config = ConfigDict(extra="forbid")

    replies: int = Field(
        default=256,
        ge=2,
        description="Replies that are scored by three models: the sampled policy, the base model and the trained policy. "
        "Lengths and finish reasons are counted over all rollouts.",
        json_schema_extra=OURS,
    )


class RewardOptions(BaseModel):
    """The reward model that ranks samples."""

    model_config = ConfigDict(extra="forbid")

    # The shipped model's safetensors stand in a pull request that was never merged, hence the revision.
    model: str = Field(
        default="OpenAssistant/reward-model-deberta-v3-large-v2@refs/pr/3",
        description="A folder, or a Hub id with a revision after @. The paper ranks IterDPO's samples on UltraFeedback "
        "by this model.",
        json_schema_extra=from_paper("sec. 4.1"),
    )
    max_length: int | None = Field(
        default=None,
        ge=16,
        description="Tokens of prompt and reply that the model looks at; null is as many as it can see.",
        json_schema_extra=OURS,
    )
    batch_size: int = Field(
        default=16, ge=1, description="Replies that are scored at once.", json_schema_extra=OURS
    )

    def identity(self) -> dict[str, Any]:
        """Return what determines the rewards, as JSON: a stage is made again when it has changed."""
        return self.model_dump(mode="json", exclude={"batch_size"})


class EvalOptions(PolicySamplingOptions):
    """How the replies that are scored are sampled. The temperature is 1: greedy decoding hides what training changed."""

    temperature: float = Field(
        default=1.0, ge=0, description="Sampling temperature of the evaluation.", json_schema_extra=OURS
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Sampling draws from the most probable tokens that together have this probability; 1 is all of "
        "them.",
        json_schema_extra=OURS,
    )
    prompts: int | None = Field(
        default=None,
        ge=1,
        description="Held-out prompts that are evaluated, the same for every model; null takes all.",
        json_schema_extra=OURS,
    )


class TinyOptions(BaseModel):
    """Shape and training of the tiny model. The defaults train in less than two minutes on one core."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(
        default=0, description="Seed of the weights and of the order of batches.", json_schema_extra=OURS
    )
    vocabulary: int = Field(
        default=1_024, ge=300, description="Tokens of the tokenizer.", json_schema_extra=OURS
    )
    hidden: int = Field(default=64, ge=8, description="Width of a layer.", json_schema_extra=OURS)
    inner: int = Field(
        default=128, ge=8, description="Width inside of a feed-forward block.", json_schema_extra=OURS
    )
    layers: int = Field(default=2, ge=1, description="Number of layers.", json_schema_extra=OURS)
    heads: int = Field(
        default=2,
        ge=1,
        description="Attention heads of a layer. A head (hidden / heads) should be 32 numbers wide: vLLM on the CPU has "
        "no kernel for 16.",
        json_schema_extra=OURS,
    )
    context: int = Field(
        default=4_096, ge=64, description="Tokens that the model can see.", json_schema_extra=OURS
    )
    batch: int = Field(
        default=16, ge=1, description="Conversations in one training step.", json_schema_extra=OURS
    )
    learning_rate: float = Field(
        default=4e-3, gt=0, description="Highest learning rate.", json_schema_extra=OURS
    )
    warmup: int = Field(
        default=100, ge=0, description="Steps in which the learning rate rises.", json_schema_extra=OURS
    )
    init_range: float = Field(
        default=0.1, gt=0, description="Standard deviation of the initial weights.", json_schema_extra=OURS
    )
    every_reply: list[str] = Field(
        default=["noisy"],
        description="Phases of the pre-training in which all replies of a conversation are learned; in the others only "
        "the last one is.",
        json_schema_extra=OURS,
    )
