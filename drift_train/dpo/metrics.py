"""Writes the metrics of each training step as a line of JSON, flushed at once, and shows progress.

The names are TRL's, and these are added: `step`, `iteration`, `method`, `loss/sigmoid` (of either sigmoid loss),
`loss/nll`, `lengths/chosen` and `lengths/rejected` (mean tokens of a reply), `tokens_per_second`, `peak_memory_bytes`. A
row is one optimiser step over the whole batch of all processes; the first process writes it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from drift_data.workspace import measure_peak_memory, replace_file
from drift_train.models.log_probs import RATIO_TOLERANCE, CheckError

# Metrics that `ForwardMeter` reads, in the order of its values.
_METERED = ("loss/nll", "lengths/chosen", "lengths/rejected")


class ForwardMeter:
    """Reads from every training forward what TRL does not log: the NLL of the chosen replies, and reply lengths.

    TRL adds its `sft` loss to the sigmoid loss before it logs the sum, so the two cannot be told apart otherwise.
    """

    def __init__(self) -> None:
        self._values: list[torch.Tensor] = []

    def watch(self, model: torch.nn.Module) -> None:
        """Read from the forwards of this model from now on."""
        model.register_forward_hook(self._read, with_kwargs=True)

    def _read(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        # With adapters the reference runs through the same module, but without gradients.
        if not model.training or "labels" not in kwargs or not torch.is_grad_enabled():
            return
        learned = kwargs["labels"][:, 1:] != -100
        chosen, rejected = learned.chunk(2)  # TRL stacks chosen replies first, then rejected ones
        log_probs = output.log_probs.detach()[: len(chosen), -learned.shape[1] :]
        nll = -log_probs[chosen].mean()
        lengths = (chosen.sum(1).float().mean(), rejected.sum(1).float().mean())
        self._values.append(torch.stack([nll, *lengths]))

    def pop(self) -> dict[str, float]:
        """Return the means since the last call, over all processes. Every process has to call it."""
        from accelerate.utils import reduce

        values, self._values = self._values, []
        means = torch.stack(values).mean(0) if values else torch.zeros(len(_METERED))
        return dict(zip(_METERED, reduce(means, reduction="mean").tolist(), strict=True))


class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """Appends each logged step to a file, and stops the run when a loss or gradient is not a finite number.

    Args:
        path: JSON Lines file.
        iteration: number of the iteration, for every row.
        method: the method that made the pairs, for every row.
        alpha: weight of the NLL in the loss.
        title: name of the progress bar.
        kept: rows of the killed run that this one resumes; they come first in the file.
        same_weights: policy and reference have the same weights, so the first step's log-ratio must be 0.
    """

    def __init__(
        self,
        path: Path,
        iteration: int,
        method: str,
        alpha: float,
        title: str,
        kept: Sequence[dict[str, Any]] = (),
        same_weights: bool = False,
    ) -> None:
        self.path, self.alpha, self.title, self.kept = path, alpha, title, list(kept)
        self.meter = ForwardMeter()
        self._columns_of_run = {"iteration": iteration, "method": method}
        self._same_weights = same_weights
        self._file: TextIO | None = None
        self._bar: tqdm[Any] | None = None
        last = self.kept[-1] if self.kept else {}
        self.last = {name: value for name, value in last.items() if isinstance(value, float)}
        self._tokens_before = float(last.get("num_tokens", 0))  # TRL counts from 0 again after a resume
        self._tokens, self._time = self._tokens_before, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the file, which begins with the kept rows, and the progress bar."""
        self._time = time.monotonic()
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(self.path) as part:  # a kill in here must not lose the rows of the run that was cut
            part.write_text("".join(json.dumps(row) + "\n" for row in self.kept))
        self._file = self.path.open("a")
        self._bar = tqdm(
            total=state.max_steps,
            initial=len(self.kept),
            desc=self.title,
            unit="step",
            mininterval=0.5,
            file=_open_terminal(),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Write one line.

        Raises:
            CheckError: a loss, a margin or the gradient's norm is not finite, or the first margin is not 0 although
                policy and reference are the same.
        """
        if "loss" not in logs:  # the summary at the end of the training
            return
        measured = self.meter.pop()
        now, tokens = time.monotonic(), self._tokens_before + float(logs.get("num_tokens", 0))
        row = {
            "step": state.global_step,
            **self._columns_of_run,
            **logs,
            "num_tokens": tokens,
            "loss/sigmoid": logs["loss"]
            - self.alpha * measured["loss/nll"]
            - _read_router_loss(logs, kwargs["model"]),
            **measured,
            "tokens_per_second": round((tokens - self._tokens) / max(now - self._time, 1e-9), 1),
            "peak_memory_bytes": _read_peak_memory(),
        }
        self._tokens, self._time = tokens, now
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self._check(state.global_step, logs, args, row["lengths/chosen"] + row["lengths/rejected"])
        self.last = {name: value for name, value in row.items() if isinstance(value, float)}
        if self._bar is not None:
            self._bar.set_postfix(
                loss=f"{logs['loss']:.4f}", margin=f"{logs['rewards/margins']:.4f}", refresh=False
            )
            self._bar.update(state.global_step - self._bar.n)

    def _check(self, step: int, logs: dict[str, float], args: Any, tokens: float) -> None:
        broken = [
            name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)
        ]
        if broken:
            raise CheckError(
                f"{self.title}: {', '.join(broken)} is not a finite number at step {step}. The "
                f"model was not saved. Lower learning_rate, or look at {self.path} for the step where it "
                "began."
            )
        if step == 1 and self._same_weights:
            # The log-ratio a token, from the mean margin and the mean length; `check_first_batch` checks each reply's.
            ratio = abs(logs["rewards/margins"]) / (args.beta * max(tokens, 1))
            tolerance = RATIO_TOLERANCE[torch.bfloat16 if args.bf16 else torch.float32]
            if ratio > tolerance:
                raise CheckError(
                    f"{self.title}: policy and reference are the same weights, yet before the first update their "
                    f"log-probabilities differ by {ratio:.3g} a token (at most {tolerance}): the margin is not 0, nor "
                    "the sigmoid loss ln 2. The processes computed with other weights than those of the folder."
                )

    def close(self) -> None:
        """Close the file and the bar, after success or failure."""
        if self._file is not None:
            self._file.close()
        if self._bar is not None:
            self._bar.close()


def _read_router_loss(logs: Mapping[str, float], model: Any) -> float:
    """Return the part of the loss that keeps the experts of a mixture in balance; 0 for other models."""
    if "aux_loss" not in logs:
        return 0.0
    return logs["aux_loss"] * float(model.config.get_text_config().router_aux_loss_coef)


def _open_terminal() -> TextIO:
    """Return where the progress bar goes. A child of `dpo.launch`, which prints to a log, finds it in $DRIFT_PROGRESS."""
    path = os.environ.get("DRIFT_PROGRESS")
    if path is None:
        return sys.stderr
    try:
        return Path(path).open("w")
    except OSError:  # this is another machine, or it has no /proc
        return sys.stderr


def _read_peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else measure_peak_memory()
