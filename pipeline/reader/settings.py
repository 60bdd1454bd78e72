"""Settings of the reader: where the samples come from, what is drawn for them, and how far ahead they are read."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.sampling.plan import PlanSettings
from pipeline.settings import COUNT_LIMIT, FACTOR_LIMIT, THREAD_LIMIT, Settings
from pipeline.storage import Uri


class MixSettings(Settings):
    """One more dataset to draw from."""

    shards: Uri
    """Folder of a shard dataset, or its URI such as s3://bucket/folder."""
    weight: float = Field(1.0, gt=0, le=FACTOR_LIMIT)
    """How often it is drawn from, relative to `weight` of the first dataset."""


class ReaderSettings(PlanSettings):
    """Datasets, what is drawn for their samples, and how far ahead they are read."""

    shards: Uri
    """Folder of a shard dataset, or its URI such as s3://bucket/folder."""
    weight: float = Field(1.0, gt=0, le=FACTOR_LIMIT)
    """How often it is drawn from, relative to the datasets in `mix`."""
    mix: tuple[MixSettings, ...] = ()
    """More datasets: '[{"shards": "DIR", "weight": 0.5}]'. Each has its own epochs."""
    neighbours: Path | None = None
    """Folder with `neighbours.parquet`: the auxiliary frame is then one of an image's nearest neighbours."""
    cache: Path | None = None
    """Folder on a local disk for shards of remote datasets."""
    cache_gb: float = Field(100.0, gt=0, le=COUNT_LIMIT)
    """Most gigabytes of shards in `cache`."""
    backend: Literal["auto", "dali", "torch"] = "auto"
    """What makes the views: DALI on the device of the run, or torch on CPU cores, which is two to three times as fast
    there as DALI. auto: DALI on a GPU, torch on a CPU; a run that continues keeps what it began with."""
    threads: int = Field(2, ge=1, le=THREAD_LIMIT)
    """CPU threads of the back end on each rank."""
    prefetch: int = Field(2, ge=1, le=THREAD_LIMIT)
    """Batches that the back end makes ahead."""
    read_ahead: int = Field(4, ge=1, le=THREAD_LIMIT)
    """Batches that are planned further ahead, and whose frames the kernel is asked to read."""

    @model_validator(mode="after")
    def _boxes_fit_auxiliary_frames(self) -> "ReaderSettings":
        if self.neighbours is not None and self.views.auxiliary_crop == "current":
            raise ValueError(
                "views.auxiliary_crop = current cannot be used with neighbours, whose sizes differ: remove one of them"
            )
        return self

    def backend_on(self, device_type: str) -> Literal["dali", "torch"]:
        """The back end on devices of type `cpu` or `cuda`."""
        if self.backend == "auto":
            return "dali" if device_type == "cuda" else "torch"
        return self.backend

    def mixture(self) -> tuple[MixSettings, ...]:
        """All datasets with their weights."""
        return (MixSettings(shards=self.shards, weight=self.weight), *self.mix)
