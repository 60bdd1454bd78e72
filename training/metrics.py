"""Metrics of a run: progress bar, `metrics.jsonl` and trackers such as TensorBoard."""

import itertools
import json
import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from pipeline.files import write_bytes
from pipeline.reading import read_json_lines
from training.command import TrainCommand
from training.distributed import HostCopy
from training.model import TCoRe
from training.step import StepResult

METRICS = "metrics.jsonl"
PROJECT = "tcore"
"""Project name in the trackers."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete lines of a run's metrics, in order; the last line of a killed run may be torn and is skipped.

    Raises:
        UserError: the file cannot be read.
    """
    lines = read_json_lines(run / METRICS)
    return list(itertools.takewhile(lambda line: isinstance(line.get("step"), int), lines))


def keep_metrics(run: Path, last_step: int) -> None:
    """Drop the lines of steps after `last_step`, which a resumed run repeats."""
    if (run / METRICS).is_file():
        kept = [line for line in read_metrics(run) if line["step"] <= last_step]
        write_bytes(run / METRICS, b"".join(json.dumps(line).encode() + b"\n" for line in kept))


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far, of the GPU, or of this process on the CPU, in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def effective_rank(features_nd: Tensor) -> float:
    """Number of directions that features (N, D) span: exp of the entropy of their normalized singular values.

    From 1 if all are parallel (collapse) to min(N, D) (RankMe, Garrido et al. 2023).
    """
    if not bool(features_nd.isfinite().all()):
        return math.nan
    rows_nd = features_nd.double()  # the Gram matrix has the squares of the singular values
    gram = rows_nd.T @ rows_nd if rows_nd.shape[1] < len(rows_nd) else rows_nd @ rows_nd.T
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(1e-12)
    return float(torch.special.entr(shares).sum().exp())


def diagnostics(accelerator: Accelerator, result: StepResult, model: TCoRe) -> dict[str, float | Tensor]:
    """Measures of collapse: target entropies, effective rank of the features, norms of the centers.

    All ranks call this. The effective rank is that of the global batch, as is the mean of the entropies over ranks.
    """
    features: Tensor = accelerator.gather(result.diagnostics["features"])
    return {
        "target_entropy/cls": result.diagnostics["cls_entropy"],
        "target_entropy/patches": result.diagnostics["patch_entropy"],
        "features/effective_rank": effective_rank(features),
        "center_norm/cls": model.cls_center.center.norm(),
        "center_norm/patches": model.patch_center.center.norm(),
    }


def _vector(values: Iterable[float | Tensor], device: torch.device) -> Tensor:
    """Numbers and scalar tensors as one float32 vector on the device; the host does not wait."""
    scalars = (value if isinstance(value, Tensor) else torch.full((), value, device=device) for value in values)
    return torch.stack([scalar.float() for scalar in scalars])


class Progress:
    """Progress bar with ETA, and a log line every `log_every` steps; only the main process writes."""

    def __init__(
        self,
        accelerator: Accelerator,
        command: TrainCommand,
        config: Mapping[str, Any],
        first_step: int,
        last_step: int,
    ) -> None:
        run = command.out
        self._accelerator, self._run = accelerator, run
        self._last = last_step
        self._batch_size, self._log_every = command.train.total_batch_size, command.train.log_every
        self._logged, self._logged_at, self._waited = first_step, time.perf_counter(), 0.0
        self._sums: dict[str, Tensor] = {}
        self._counted = 0
        if accelerator.is_main_process:
            keep_metrics(run, first_step)
        wandb = {"dir": str(run), "group": run.name, "config": dict(config)}  # each start of a run is one of a group
        accelerator.init_trackers(PROJECT, init_kwargs={"wandb": wandb})
        self._bar = tqdm(
            total=last_step, initial=first_step, unit="step", disable=not accelerator.is_main_process, smoothing=0
        )

    def waited(self, seconds: float) -> None:
        """Add seconds in which the model waited for data."""
        self._waited += seconds

    def step_done(
        self,
        done: int,
        losses: dict[str, Tensor],
        others: Mapping[str, float | Tensor],
        diagnose: Callable[[], dict[str, float | Tensor]],
    ) -> None:
        """Count a step; all ranks call this. The first step, the last one and every `log_every`-th are logged.

        A logged loss is the mean over ranks and over the steps since the last log line. `others`, and the result of
        `diagnose`, which is called if this step is logged, are those of this step. A skipped step has no `losses`.
        """
        self._bar.update()
        self._counted += bool(losses)
        for name, term in losses.items():
            self._sums[name] = self._sums.get(name, 0) + term.detach()
        if done % self._log_every and done not in (1, self._last):
            return
        device = self._accelerator.device
        averaged = {f"loss/{name}": total / self._counted for name, total in self._sums.items()} | diagnose()
        own = {name: value for name, value in others.items() if isinstance(value, Tensor)}
        means = self._accelerator.reduce(_vector(averaged.values(), device), "mean")
        values = HostCopy(torch.cat([means, _vector(own.values(), device)])).read()
        now = time.perf_counter()
        seconds = now - self._logged_at
        metrics = {
            **dict(zip([*averaged, *own], values, strict=True)),
            **{name: value for name, value in others.items() if not isinstance(value, Tensor)},
            "samples_per_second": (done - self._logged) * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
            "peak_memory_gb": peak_memory_gb(device),
        }
        self._logged, self._logged_at, self._waited, self._sums, self._counted = done, now, 0.0, {}, 0
        if self._accelerator.is_main_process:
            with (self._run / METRICS).open("a") as stream:
                stream.write(json.dumps({"step": done, **metrics}) + "\n")
            self._bar.set_postfix_str(
                f"loss {metrics.get('loss/total', math.nan):.3f}, {metrics['samples_per_second']:.1f} samples/s, "
                f"{100 * metrics['data_wait_share']:.0f} % waiting for data, {metrics['peak_memory_gb']:.1f} GB"
            )
        self._accelerator.log(metrics, step=done)

    def evaluated(self, done: int, scores: Mapping[str, float], seconds: float) -> None:
        """Log scores of the model after `done` steps; the `seconds` of the evaluation do not count as training."""
        self._logged_at += seconds
        self._accelerator.log(dict(scores), step=done)

    def close(self) -> None:
        """Close the progress bar and the trackers."""
        self._bar.close()
        self._accelerator.end_training()
