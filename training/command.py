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
    """Clips in the global batch, over all ranks."""
    micro_batch_size: int | None = Field(None, ge=1, le=BATCH_LIMIT)
    """Clips that a rank puts through the model at a time; gradients add up. Default: all it has of the batch."""
    epochs: int = Field(400, ge=1, le=1_000_000)
    """Length of the run."""
    steps_per_epoch: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Default: as many whole batches as all datasets hold samples. The schedules count in epochs of this length."""
    seed: Seed = 0
    """Seed of the initial weights and of stochastic depth."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: matrix products of the forward pass and their gradients in bfloat16; all else stays in float32."""
    compile: bool = False
    """Whether the blocks of the backbones are compiled with torch.compile."""
    recompute: Recompute = "none"
    """Activations of the student's blocks that are computed again in the backward pass instead of kept in memory.
    selective: the cheap ones, which costs little time. full: all."""
    log_every: int = Field(10, ge=1, le=COUNT_LIMIT)
    """Steps between two lines of metrics."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl; wandb must be installed for the second."""
    maps_every: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Steps between two pictures of the Patch Matching Module's cross-attention; default: none."""
    checkpoint_every: int = Field(1000, ge=1, le=COUNT_LIMIT)
    """Steps between two checkpoints; the last step is always saved."""
    keep_checkpoints: int = Field(2, ge=1, le=COUNT_LIMIT)
    """Newest checkpoints that stay on disk."""
    keep_every: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Checkpoints at multiples of so many steps stay on disk as well."""
    nonfinite_steps: int = Field(1, ge=1, le=COUNT_LIMIT)
    """The run stops at so many steps with a loss or gradient that is not finite; those before are left out."""


class TrainCommand(Command):
    """What a run is made from: `training/pretrain.py` adds what is evaluated meanwhile."""

    program: ClassVar[str] = "accelerate launch training/pretrain.py"

    out: Path
    """Folder of the run."""
    resume: str = "auto"
    """auto: from the newest usable checkpoint in OUT, if any; or the folder of a checkpoint."""
    data: ReaderSettings
    """Shards and what is drawn from them."""
    model: TCoReSettings = TCoReSettings()
    """Backbone, heads, patch matching module and losses."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW and its parameter groups."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate, weight decay, EMA and temperature over the run."""
    train: TrainSettings = TrainSettings()
    """Length, batch and bookkeeping."""
