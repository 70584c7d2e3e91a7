"""Writes training metrics as one JSON object a line, flushed, and shows progress. Knows TRL's names, adds a
few.

Added to TRL's: `step`, `iteration`, `method`, `loss/sigmoid`, `loss/nll`, `tokens_per_second`,
`peak_memory_bytes`.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from drift_data.workspace import peak_memory_bytes
from drift_train.checks import CheckError


class NllMeter:
    """Reads the chosen replies' mean negative log-likelihood off every training forward, as TRL's `sft` loss
    has it.

    TRL adds that loss to the sigmoid loss before logging; without this the two cannot be told apart.
    """

    def __init__(self) -> None:
        self._values: list[float] = []

    def watch(self, model: torch.nn.Module) -> None:
        """Read from this model's forwards on."""
        model.register_forward_hook(self._read, with_kwargs=True)

    def _read(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not model.training or "labels" not in kwargs:
            return
        labels = kwargs["labels"][:, 1:]
        half = labels.shape[0] // 2  # chosen first, then rejected
        log_probs = output.log_probs.detach()[:half, -labels.shape[1] :]
        self._values.append(float(-log_probs[labels[:half] != -100].mean()))

    def pop(self) -> float:
        """Return the mean since the last call."""
        values, self._values = self._values, []
        return sum(values) / len(values) if values else 0.0


class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """Appends each logged step to a file and stops the run when a loss or gradient is not a number."""

    def __init__(self, path: Path, iteration: int, method: str, alpha: float, title: str) -> None:
        self.path, self.alpha, self.title = path, alpha, title
        self.nll = NllMeter()
        self.same = {"iteration": iteration, "method": method}
        self._file: TextIO | None = None
        self._bar: tqdm[Any] | None = None
        self._tokens, self._time = 0.0, 0.0
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the file and the bar."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w")
        self._bar = tqdm(total=state.max_steps, desc=self.title, unit="step", mininterval=0.5)
        self._time = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Write one line.

        Raises:
            CheckError: a loss, a margin or the gradient's norm is not finite.
        """
        if "loss" not in logs or self._file is None:  # the summary at the end
            return
        now, tokens = time.monotonic(), float(logs.get("num_tokens", 0))
        nll = self.nll.pop()
        row = {
            "step": state.global_step,
            **self.same,
            **logs,
            "loss/sigmoid": logs["loss"] - self.alpha * nll,
            "loss/nll": nll,
            "tokens_per_second": round((tokens - self._tokens) / max(now - self._time, 1e-9), 1),
            "peak_memory_bytes": _peak_memory(),
        }
        self._tokens, self._time = tokens, now
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        broken = [
            name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)
        ]
        if broken:
            raise CheckError(
                f"{self.title}: {', '.join(broken)} is not a finite number at step {state.global_step}. The "
                f"model was not saved. Lower learning_rate, or look at {self.path} for the step where it "
                "began."
            )
        self.last = {name: value for name, value in logs.items() if isinstance(value, float)}
        if self._bar is not None:
            self._bar.set_postfix(
                loss=f"{logs['loss']:.4f}", margin=f"{logs['rewards/margins']:.4f}", refresh=False
            )
            self._bar.update(state.global_step - self._bar.n)

    def close(self) -> None:
        """Close the file and the bar, after success or failure."""
        if self._file is not None:
            self._file.close()
        if self._bar is not None:
            self._bar.close()


def _peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory_bytes()
