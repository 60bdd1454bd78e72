"""Settings of a training run."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.reader.settings import ReaderSettings
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Command, Seed, Settings
from training.model import TCoReSettings
from training.optimizer import OptimizerSettings
from training.recompute import Recompute
from training.schedules import ScheduleSettings


class TrainSettings(Settings):
    """Length, batch and bookkeeping of a run."""

    total_batch_size: int = Field(256, ge=1, le=BATCH_LIMIT)
    """Clips in the global batch, over all ranks (paper, section 4.1)."""
    micro_batch_size: int | None = Field(None, ge=1, le=BATCH_LIMIT)
    """Clips in a forward pass of a rank; gradients are accumulated. Default: all clips that the rank has."""
    epochs: int = Field(400, ge=1, le=1_000_000)
    """Epochs of the run (paper, section 4.1: ViT-S/16 on Kinetics-400)."""
    steps_per_epoch: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Length of an epoch, in which the schedules count. Default: the whole batches that all samples make."""
    seed: Seed = 0
    """Seed of the initial weights and of stochastic depth."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: matrix products of the forward pass and their gradients in bfloat16, everything else in float32."""
    compile: bool = False
    """Whether torch.compile fuses the blocks of the backbones and the losses; their first steps take minutes."""
    recompute: Recompute = "none"
    """Activations of the student's blocks that are recomputed in the backward pass instead of kept in memory.
    selective: the cheap ones. full: all."""
    log_every: int = Field(10, ge=1, le=COUNT_LIMIT)
    """Steps between two log lines."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Trackers that get the metrics besides metrics.jsonl: any that Accelerate knows and that is installed."""
    report: bool = True
    """Whether report.html and report.png are written at the end, also of a run that is interrupted."""
    profile: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Steps that torch's profiler records on the first rank, after two for warm-up. Default: none."""
    maps_every: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Steps between two drawings of the Patch Matching Module's cross-attention. Default: none."""
    checkpoint_every: int = Field(1000, ge=1, le=COUNT_LIMIT)
    """Steps between two checkpoints; the last step is always saved."""
    keep_checkpoints: int = Field(2, ge=1, le=COUNT_LIMIT)
    """Number of newest checkpoints to keep."""
    keep_every: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Also keep the checkpoints at multiples of this number of steps."""
    nonfinite_steps: int = Field(1, ge=1, le=COUNT_LIMIT)
    """Number of steps with a non-finite loss or gradient that stops the run; the ones before are skipped."""
    branch: bool = False
    """Whether a new run continues weights, optimizer and centers of the checkpoint `resume` under other settings."""


class TrainCommand(Command):
    """Options of a training run; `training/pretrain.py` adds those of the evaluation during training."""

    program: ClassVar[str] = "accelerate launch training/pretrain.py"

    out: Path
    """Folder of the run."""
    resume: str = "auto"
    """auto: continue from the newest usable checkpoint in OUT, if any. Or the folder of a checkpoint."""
    data: ReaderSettings
    """Shards, and how batches are drawn from them."""
    model: TCoReSettings = TCoReSettings()
    """Backbone, heads, patch matching module and losses."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW and its parameter groups."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate, weight decay, EMA momentum and teacher temperature over the run."""
    train: TrainSettings = TrainSettings()
    """Length, batch and bookkeeping."""
