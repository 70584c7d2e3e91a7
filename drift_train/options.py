"""Options of rollouts, pairs, training and evaluation, with the paper's values as defaults. Imports no torch.

"paper" is arXiv 2510.02341, "release" the authors' code; a value without either is ours.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EngineName = Literal["auto", "vllm", "server", "transformers"]
MethodName = Literal["drift", "spin", "iterdpo"]
ExamplesName = Literal["logs", "preferences"]

INSTRUCTION = (
    "Taking the comment above into account, answer my earlier request again, from the beginning and in full. "
    "Give only the new answer: no apology, and no mention of the previous one."
)


class PolicyServerOptions(BaseModel):
    """An OpenAI-compatible server that serves the policy. The key comes from $OPENAI_API_KEY, if it wants one."""

    model_config = ConfigDict(extra="forbid")

    base_url: str  # such as http://localhost:8000/v1
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # it computes in: how close the recheck must come
    concurrency: int = Field(default=64, ge=1)  # requests at once
    timeout: float = Field(default=600.0, gt=0)  # seconds for one reply
    retries: int = Field(default=5, ge=0)  # of a request, after connection errors, 429 and 5xx

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        address = urlsplit(value)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("a base URL looks like http://localhost:8000/v1")
        if address.username or address.password or address.query:
            raise ValueError("a base URL carries no credentials: put the key into $OPENAI_API_KEY")
        return value


# Arguments of `vllm.LLM` that say where and how fast it computes, but for rounding not what.
_PLACEMENT = {
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


class SamplingOptions(BaseModel):
    """How replies are sampled from a policy, whatever they are for."""

    model_config = ConfigDict(extra="forbid")
    _apart: ClassVar[tuple[str, ...]] = ("shard", "batch_size", "server")  # see `identity`

    engine: EngineName = "auto"  # vllm where it is installed and starts, else transformers; said on stderr
    temperature: float = Field(default=0.7, ge=0)  # release
    top_p: float = Field(default=0.9, gt=0, le=1)  # release
    max_new_tokens: int = Field(default=512, ge=1)  # release
    max_prompt_tokens: int = Field(default=2048, ge=1)  # release: input length of the rollout prompt
    samples: int = Field(default=1, ge=1)  # release: one reply a prompt
    seed: int = 42  # release (of training; its sampling had none)
    recheck: int = Field(
        default=8, ge=0
    )  # rows, and one a shard, whose log-probs are computed again; 0 = none
    vllm: dict[str, Any] = {}  # further arguments of `vllm.LLM`, e.g. tensor_parallel_size
    # What follows decides how replies are computed, not which: see `identity`.
    shard: int = Field(default=2_000, ge=1)  # requests; a run that is killed samples at most two shards again
    batch_size: int = Field(default=32, ge=1)  # of the transformers engine; vllm batches by itself
    server: PolicyServerOptions | None = None  # of the server engine

    @model_validator(mode="after")
    def _engine_can_run(self) -> Self:
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

        Left out is what a user may change between a kill and the next run: shards, batches, the server's address,
        how vllm is spread over devices, and how many replies are scored again; that none is stays in it, for replies
        that nobody has checked are no others' equals.
        """
        options = self.model_dump(mode="json", exclude=set(self._apart))
        options["recheck"] = self.recheck > 0
        options["vllm"] = {name: value for name, value in self.vllm.items() if name not in _PLACEMENT}
        return options


class RolloutOptions(SamplingOptions):
    """Which examples an iteration takes, and what the policy is shown."""

    _apart: ClassVar[tuple[str, ...]] = (*SamplingOptions._apart, "select")  # of the pairs

    # true: x, y⁻, the complaint, an instruction (release); false: x alone (paper's ablation).
    # None: as the paper's table 1 has it for the method and the data (`LoopOptions.guided`)
    guidance: bool | None = None
    # own words: the paper's idea, not its sentence
    instruction: str = Field(default=INSTRUCTION, min_length=1)
    # an iteration; None = all (paper: full; controlled ≈ 4000)
    examples: int | None = Field(default=None, ge=1)
    fresh: bool = True  # with `examples`: iteration k takes the k-th slice of one fixed shuffle
    # which of several samples stands for the policy: the first that passes the pair filters, or of those the best
    # by `loop.reward`
    select: Literal["first", "best"] = "first"


class PairOptions(BaseModel):
    """Which pairs are kept."""

    model_config = ConfigDict(extra="forbid")

    drop_leaks: bool = True  # chosen text that speaks of a reply which the training prompt does not show
    drop_leaks_in_seed: bool = False  # the paper did not filter its seed pairs


class LoraOptions(BaseModel):
    """Low-rank adapters on every linear layer but the head; the saved model has them merged in."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)  # the update is scaled by alpha / rank


class TrainOptions(BaseModel):
    """DPO. The defaults are one iteration of the paper."""

    model_config = ConfigDict(extra="forbid")

    beta: float = Field(default=0.1, gt=0)  # paper, release
    # against growing length: `sigmoid_norm` divides each reply's log-ratio by its tokens (so beta is another scale,
    # about 2 and more); `ld_alpha` < 1 counts the tokens past the shorter reply's length that much less (LD-DPO)
    loss: Literal["sigmoid", "sigmoid_norm"] = "sigmoid"  # paper
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    # release `rpo_alpha`: weight of the chosen reply's NLL; 0 = plain DPO
    alpha: float = Field(default=0.001, ge=0)
    learning_rate: float = Field(default=5e-7, ge=0)  # paper app. D; 0 is a control arm
    scheduler: Literal["linear", "cosine", "constant"] = "linear"  # paper app. D
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)  # paper app. D
    optimizer: Literal["rmsprop", "adamw_torch"] = "rmsprop"  # paper app. D
    # paper: 1 an iteration; 3 for the warm start (`warm_start_options`)
    epochs: float = Field(default=1, gt=0)
    global_batch: int = Field(default=32, ge=1)  # release: 4 a device × 8 devices, no accumulation
    per_device_batch: int = Field(default=4, ge=1)  # release; the rest of `global_batch` is accumulated
    # release; a pair that does not fit is dropped before, never cut
    max_length: int = Field(default=2048, ge=2)
    # Trainer's default, which the release keeps; 0 = no clipping
    max_grad_norm: float = Field(default=1.0, ge=0)
    # bf16 is autocast over float32 master weights (paper: bf16); auto is bf16 on a GPU, float32 on a CPU
    precision: Literal["auto", "float32", "bf16"] = "auto"
    reference: Literal["previous", "base"] = "previous"  # paper: the policy that the iteration starts from
    # precompute: before the first step, then the reference is not held; live: beside the policy, as the release does
    reference_log_probs: Literal["precompute", "live"] = "precompute"
    lora: LoraOptions | None = None  # None trains all weights, as the paper
    seed: int = 42  # release
    threads: int | None = Field(default=None, ge=1)  # of torch on the CPU; None leaves them as they are
    # what follows does not change the result: a run that was cut goes on with others
    gradient_checkpointing: bool = True  # release
    report_to: list[str] = []  # trackio, wandb, tensorboard …, beside metrics.jsonl
    checkpoint_steps: int = Field(
        default=100, ge=1
    )  # for a run that is killed; a shorter training keeps none
    launch: str | None = (
        None  # accelerate config, shipped name or file, and further arguments; None: this process
    )

    def determining(self) -> dict[str, Any]:
        """Return what the trained model depends on, as JSON.

        `precision: auto` stays so: a model that a GPU trained is not made again where there is none. The manifest says
        which it was, and a training that was cut is not gone on from in another.
        """
        apart = {"gradient_checkpointing", "report_to", "checkpoint_steps", "launch"}
        return self.model_dump(mode="json", exclude=apart)

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.global_batch % self.per_device_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is no multiple of per_device_batch {self.per_device_batch}"
            )
        return self


def warm_start_options() -> TrainOptions:
    """Return the paper's options of the warm start: as an iteration, but 3 epochs (app. D)."""
    return TrainOptions(epochs=3)


class HealthOptions(BaseModel):
    """How much of an iteration's rollouts is looked at after its training."""

    model_config = ConfigDict(extra="forbid")

    replies: int = Field(default=256, ge=2)  # scored by three models; lengths and ends are of all rollouts


class RewardOptions(BaseModel):
    """The reward model that ranks samples."""

    model_config = ConfigDict(extra="forbid")

    # paper, of IterDPO on UltraFeedback. A folder, or a Hub id with a revision after "@": this model's safetensors
    # are in a pull request that was never merged
    model: str = "OpenAssistant/reward-model-deberta-v3-large-v2@refs/pr/3"
    max_length: int | None = Field(
        default=None, ge=16
    )  # tokens of prompt and reply; None = what the model can see
    batch_size: int = Field(default=16, ge=1)


class LoopOptions(BaseModel):
    """A whole run: warm start, then iterations of rollout, pairs and DPO."""

    model_config = ConfigDict(extra="forbid")

    method: MethodName = "drift"
    # logs: dsat, sat or seed, whichever the method learns from; preferences: pairs that the data carries
    examples: ExamplesName = "logs"
    rollout: RolloutOptions = RolloutOptions()
    reward: RewardOptions | None = None  # needed only where samples are ranked
    pairs: PairOptions = PairOptions()
    train: TrainOptions = TrainOptions()
    warm: TrainOptions | None = Field(default_factory=warm_start_options)  # None: no warm start, iter0 = base
    min_seed_pairs: int = Field(default=8, ge=1)  # fewer: no warm start, iter0 is the base model, said so
    health: HealthOptions | None = HealthOptions()  # None: not measured; it takes three models in float32

    @property
    def guided(self) -> bool:
        """Whether rollouts show the complaint. Paper, table 1: DRIFT and IterDPO on logs; SPIN never, nor anyone on
        UltraFeedback.
        """
        if self.rollout.guidance is not None:
            return self.rollout.guidance
        return self.examples == "logs" and self.method != "spin"

    @property
    def ranking(self) -> RewardOptions | None:
        """The reward model that ranks the samples of an example; None where they are not ranked."""
        return self.reward if self._ranks else None

    @property
    def _ranks(self) -> bool:
        return self._compares_samples or self.rollout.select == "best"

    @property
    def _compares_samples(self) -> bool:
        return self.method == "iterdpo" and not self.guided

    def asked(self) -> RolloutOptions:
        """Return the options of the rollouts with what the method decides filled in: guidance, and two samples
        where two are compared.
        """
        samples = max(self.rollout.samples, 2 if self._compares_samples else 1)
        return self.rollout.model_copy(update={"guidance": self.guided, "samples": samples})

    @model_validator(mode="after")
    def _ranking_needs_a_reward(self) -> Self:
        if self._ranks and self.reward is None:
            why = (
                "rollout.select: best"
                if self.rollout.select == "best"
                else "iterdpo without guidance, which compares samples of one prompt,"
            )
            raise ValueError(
                f"{why} needs a reward model: set reward, e.g. loop.reward.model={RewardOptions().model}"
            )
        if self.rollout.select == "best" and self.asked().samples == 1:
            raise ValueError("rollout.select: best has nothing to select from: raise rollout.samples")
        return self


class EvalOptions(SamplingOptions):
    """Samples that are scored. Temperature 1: greedy decoding hides what training changed."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    prompts: int | None = Field(default=None, ge=1)  # the first n held-out prompts; None = all


class TinyOptions(BaseModel):
    """Shape and training of the tiny model. The defaults train in less than two minutes on one core."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    vocabulary: int = Field(default=1_024, ge=300)
    hidden: int = Field(default=64, ge=8)
    inner: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)  # of 32 numbers each: vLLM on the CPU has no kernel for 16
    context: int = Field(default=4_096, ge=64)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    warmup: int = Field(default=100, ge=0)  # steps
    init_range: float = Field(default=0.1, gt=0)
    every_reply: list[str] = ["noisy"]  # phases in which all replies are learned, not the last one only
