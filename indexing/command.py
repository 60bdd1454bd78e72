"""The options of `python -m indexing.knn`."""

import re
from pathlib import Path
from typing import ClassVar

from pydantic import AliasChoices, Field, field_validator, model_validator

from indexing.job import SearchSettings
from pipeline.settings import BATCH_LIMIT, THREAD_LIMIT, WORKER_LIMIT, Command
from pipeline.storage import Folder, Uri
from training.backbone.families import BackboneOptions


class KnnCommand(Command):
    """Find the k nearest neighbours of every image of a shard dataset under the features of a backbone.

    Give either --weights, to compute features, or your own --features. Writes OUT/features.parquet,
    OUT/neighbours.parquet, OUT/report.json and OUT/gallery.html and .png; pre-training on images reads the table with
    --data.neighbours OUT. Interrupt it at any time: the same command continues. With RAY_ADDRESS set it uses that Ray
    cluster, whose nodes must see the same folders, else this machine and its GPUs.
    """

    program: ClassVar[str] = "python -m indexing.knn"

    shards: Folder
    """Folder of a shard dataset, on a file system."""
    weights: Path | None = None
    """Backbone: an export, a file (.pth, .safetensors) of another project, or a folder of transformers."""
    backbone: BackboneOptions = BackboneOptions()
    """What the weights do not say."""
    features: Path | None = None
    """Features instead of weights: a .npy array (samples, width), or a Parquet file with a column `feature` of lists
    and optionally a column `key`; one vector per sample, in the order of index.parquet. They are scaled to unit length
    and rounded to float16."""
    out: Uri
    """Folder for the table, or its URI such as s3://bucket/folder."""
    k: int = Field(5, ge=1, le=2000, validation_alias=AliasChoices("k", "neighbours"))
    """Neighbours of an image; the paper uses 5."""
    max_similarity: float | None = Field(None, ge=-1, le=1)
    """Exclude neighbours that are more similar than this; 0.999 excludes exact duplicates. Default: no limit."""
    exclude_same_group: str | None = Field(
        None, validation_alias=AliasChoices("exclude_same_group", "exclude-same-group")
    )
    r"""Regular expression whose first group matches the name of a sample's group in its key; neighbours of the query's
    own group are excluded. For video frames named CLIP_000123 give '^(.+)_\d+$'."""
    gallery: int = Field(12, ge=0, le=1000)
    """Queries drawn for gallery.html and gallery.png; 0 for none."""
    batch_size: int = Field(64, ge=1, le=BATCH_LIMIT)
    """Images per forward pass."""
    threads: int = Field(1, ge=1, le=THREAD_LIMIT)
    """CPU threads of each process that computes features."""
    workers: int | None = Field(None, ge=0, le=WORKER_LIMIT)
    """Processes that compute features at once; default one per GPU, else cores / threads. 0: one, without Ray, and
    search.where = local."""
    search: SearchSettings = SearchSettings()
    """How neighbours are searched."""

    @field_validator("exclude_same_group")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
            if not groups:
                raise ValueError(r"put parentheses around the name of the group, as in '^(.+)_\d+$'")
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> "KnnCommand":
        if (self.weights is None) == (self.features is None):
            raise ValueError("give either --weights or --features")
        return self

    @model_validator(mode="after")
    def _no_workers_no_ray(self) -> "KnnCommand":
        if self.workers == 0 and self.search.where == "ray":
            raise ValueError("workers = 0 does without Ray and cannot be combined with search.where = ray")
        return self

    @property
    def search_settings(self) -> SearchSettings:
        """The settings of the search; without workers it is local."""
        return self.search if self.workers != 0 else self.search.model_copy(update={"where": "local"})
