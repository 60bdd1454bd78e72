"""What the plan needs to know about the open datasets."""

from collections.abc import Sequence

import numpy as np

from pipeline.dataset import ShardDataset
from pipeline.neighbours import read_neighbours
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.order import DatasetSize
from pipeline.sampling.plan import SampleTable
from pipeline.sampling.sandwich import SandwichSettings, frame_ranges
from pipeline.sampling.views import Integers
from pipeline.settings import UserError


def sample_table(settings: ReaderSettings, datasets: Sequence[ShardDataset]) -> SampleTable:
    """The table of all samples of a mixture; `datasets` are those of `settings.mixture()`.

    Raises:
        UserError: the neighbour table cannot be used, or a dataset does not have the auxiliary frames.
    """
    neighbours = None
    if settings.neighbours is not None:
        if len(datasets) > 1:
            raise UserError("data.neighbours and data.mix cannot be used together: a table belongs to one dataset")
        neighbours = read_neighbours(settings.neighbours, datasets[0].manifest).astype(np.int64)
    for dataset in datasets:
        _check_auxiliary_frames(dataset, settings.sandwich.auxiliary, neighbours is not None)
        if neighbours is None:
            _check_some_clip_is_long_enough(dataset, settings.sandwich)

    def column(name: str) -> Integers:
        return np.concatenate([getattr(dataset, name) for dataset in datasets]).astype(np.int64)

    return SampleTable(
        num_frames=column("num_frames"),
        height=column("height"),
        width=column("width"),
        neighbours=neighbours,
        dataset_sizes=tuple(
            DatasetSize(tuple(np.bincount(dataset.shard, minlength=1).tolist()), entry.weight)
            for dataset, entry in zip(datasets, settings.mixture(), strict=True)
        ),
        triplets=np.concatenate([np.full(len(d), d.manifest.layout == "triplets") for d in datasets]),
        duration_s=np.concatenate([dataset.duration_s for dataset in datasets]),
    )


def _check_auxiliary_frames(dataset: ShardDataset, auxiliary: Sequence[str], has_neighbours: bool) -> None:
    if dataset.manifest.media == "images" and auxiliary and not has_neighbours:
        raise UserError(
            f"{dataset.folder} holds still images, which have no past and future: give --data.neighbours, "
            "or set data.sandwich.auxiliary to an empty list to train without the auxiliary branch"
        )
    if dataset.manifest.layout == "triplets" and len(set(auxiliary)) < len(auxiliary):
        raise UserError(
            f"{dataset.folder} holds triplets of one past and one future frame: "
            f"data.sandwich.auxiliary cannot be {','.join(auxiliary)}"
        )


def _check_some_clip_is_long_enough(dataset: ShardDataset, sandwich: SandwichSettings) -> None:
    """Refuse offsets in seconds, perhaps meant as fractions, with which every frame of a triplet would be the same."""
    if sandwich.unit == "fraction" or not sandwich.auxiliary or dataset.manifest.layout == "triplets":
        return
    if frame_ranges(sandwich, dataset.num_frames.astype(np.int64), dataset.duration_s).fallback.all():
        raise UserError(
            f"no clip of {dataset.folder} has frames {_shown(sandwich)} seconds apart, as data.sandwich asks with "
            f"unit = seconds: the longest lasts {dataset.duration_s.max():g} s, with "
            f"{np.max(dataset.num_frames / dataset.duration_s):g} frames a second"
        )


def _shown(sandwich: SandwichSettings) -> str:
    offset = {"past": sandwich.past_offset, "future": sandwich.future_offset}
    ranges = dict.fromkeys(offset[direction] for direction in sandwich.auxiliary)
    return " and ".join(f"{low:g} to {high:g}" for low, high in ranges)
