"""The three parts of a benchmark: a data set, a scoring, and a way to propagate the labels of a clip's first frame.

Each part is a `Settings` class, so its fields are the options of the command. Scoring predictions from disk needs the
first two parts only.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.frames import Frame, Resampling
from evaluation.propagation import PropagationSettings, propagate
from evaluation.protocols import T_CORE, Values, changes, preset
from evaluation.sequences import chosen_sequences
from pipeline.fingerprints import fingerprint
from pipeline.settings import Settings

Scores = dict[str, float]
"""Fractions by the name of the score."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Clip:
    """One sequence of a data set."""

    name: str
    """With `/` if the sequence is in a class folder."""
    frames: list[Frame]
    """In order of time."""
    notes: list[str]
    """Irregularities of its files, and how they are handled."""
    labeled: Collection[int]
    """Indices of the frames that have labels."""


def frame_name(clip: Clip, index: int) -> str:
    """Name of a frame; its prediction file has the same, with an extension."""
    return clip.frames[index].name


class ClipScores(NamedTuple):
    """The scores of one clip."""

    scores: Scores | None
    """None if there is nothing to score."""
    details: dict[str, Scores]
    """Scores of each object, class or joint."""
    over_time: dict[int, float]
    """Score of each scored frame, by its index."""
    reason: str | None = None
    """Why there are no scores."""
    notes: Sequence[str] = ()
    counts: Array | None = None
    """What the overall scores are computed from, if not from the clips' scores."""


@dataclass(frozen=True)
class SequenceResult:
    """The outcome of one sequence, as the result file records it."""

    status: Literal["scored", "unscored", "failed"]
    reason: str | None = None
    """Why there is no score."""
    frames: int = 0
    frames_scored: int = 0
    scores: Scores | None = None
    details: dict[str, Scores] = field(default_factory=dict)
    """Scores of each object, class or joint."""
    over_time: dict[str, float] = field(default_factory=dict)
    """Score of each scored frame, by its file name."""
    notes: list[str] = field(default_factory=list)
    """Irregularities of the data, and how they were handled."""
    counts: Array | None = None
    """As in `ClipScores`; not written to the file."""


ClipT = TypeVar("ClipT", bound=Clip)


class Dataset(Settings, ABC, Generic[ClipT]):
    """Labeled clips in a folder, and how labels are read, written and drawn.

    Labels and predictions are NumPy arrays, e.g. an index mask or positions of joints.
    """

    suffix: ClassVar[str]
    """Extension of prediction files."""

    data: Path
    """Root folder of the data set; nothing is written there."""
    sequences: tuple[str, ...] = ()
    """Only these sequences instead of the whole list, e.g. --sequences dog,bmx-trees."""

    @property
    @abstractmethod
    def frame_root(self) -> Path:
        """The folder that has a folder of frames for each sequence."""

    @abstractmethod
    def listed(self) -> list[str]:
        """All sequences. Raises UserError if the data set has no such list."""

    def names(self) -> list[str]:
        """The sequences to evaluate. Raises UserError if one does not exist or there is no list of them."""
        return chosen_sequences(self.sequences, self.frame_root) if self.sequences else self.listed()

    @abstractmethod
    def open(self, name: str) -> ClipT:
        """Find the files of a sequence and check that they fit together. Raises UserError if they do not."""

    @abstractmethod
    def truth(self, clip: ClipT, index: int) -> Array:
        """The labels of a labeled frame. Raises UserError if they cannot be read."""

    @abstractmethod
    def annotation_files(self, clip: ClipT) -> list[Path]:
        """The files that hold the labels of a clip."""

    def sha256(self, clip: ClipT) -> str:
        """Hash of the frames and labels of a clip. Raises UserError if a file cannot be read."""
        return fingerprint(self.data, [*(frame.path for frame in clip.frames), *self.annotation_files(clip)])

    @abstractmethod
    def load(self, path: Path, clip: ClipT) -> Array:
        """Read a prediction file. Raises UserError if it is missing, broken or does not fit the clip."""

    @abstractmethod
    def save(self, path: Path, prediction: Array) -> None:
        """Write a prediction file."""

    @abstractmethod
    def draw(self, frame: NDArray[np.uint8], labels: Array) -> NDArray[np.uint8]:
        """An RGB frame (H, W, 3) with labels drawn on it."""


class Scoring(Settings, ABC, Generic[ClipT]):
    """How predictions are scored against the labels. Its fields are the options `--scoring.NAME`."""

    detail: ClassVar[str]
    """What `ClipScores.details` are of: object, class, joint."""
    unscored: ClassVar[str] = "no labels after the first frame to score against"
    """Why a clip without scored frames has no scores."""
    constants: ClassVar[Mapping[str, Any]] = {}
    """What the result file records about the protocol beside the options."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the scores; the first is the main score."""

    def scored_frames(self, clip: ClipT) -> range:
        """Indices of the frames that the protocol scores if they have labels; by default all but the first."""
        return range(1, len(clip.frames))

    @abstractmethod
    def compare(self, clip: ClipT, truth: Array, prediction: Array) -> Any:  # noqa: ANN401
        """Compare the prediction for one frame with its labels."""

    @abstractmethod
    def result(self, clip: ClipT, compared: Mapping[int, Any]) -> ClipScores:
        """The scores of a clip from the results of `compare` by frame index, of which there is at least one."""

    def observe(self, truth: Array, prediction: Array) -> Any:  # noqa: ANN401
        """What `notes` needs to know about a scored frame."""
        return None

    def notes(self, clip: ClipT, observed: Mapping[int, Any]) -> list[str]:
        """Irregularities of the labels or predictions, from the results of `observe` by frame index."""
        return []

    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """Overall `scores` of the scored sequences (at least one), and more to record; by default their mean."""
        rows = [result.scores for result in results if result.scores is not None]
        return {"scores": mean_row(rows)}


class LabelPropagation(Settings, ABC, Generic[ClipT]):
    """How labels of a clip's first frame are put on the patch grid, and predictions read from it."""

    protocols: ClassVar[Mapping[str, Values]] = {T_CORE: {}}
    """Presets of the options by the name of the protocol; the defaults are those of T-CoRe."""

    propagation: PropagationSettings

    def fitted(self, patch_size: int) -> "LabelPropagation[ClipT]":
        """The settings for a network with this patch size; by default they do not depend on it."""
        return self

    def frame_resampling(self) -> Resampling:
        """How frames are resized for the network."""
        return T_CORE

    @abstractmethod
    def smallest_size(self) -> tuple[int, int]:
        """Height and width that the patch size must divide; it then divides every network size."""

    @abstractmethod
    def network_size(self, clip: ClipT) -> tuple[int, int]:
        """Height and width to which the clip's frames are resized for the network."""

    @abstractmethod
    def first_labels(self, clip: ClipT, grid: tuple[int, int]) -> Tensor:
        """Soft labels (gh, gw, L) of the first frame."""

    @abstractmethod
    def predict(self, clip: ClipT, labels: Tensor) -> Array:
        """The prediction for a frame from its propagated soft labels (gh, gw, L)."""

    def predictions(self, clip: ClipT, features: Iterable[Tensor], grid: tuple[int, int]) -> Iterator[Array]:
        """The predictions for all frames in order, from the features (gh, gw, D) of each frame as they arrive."""
        for labels in propagate(features, self.first_labels(clip, grid), self.propagation):
            yield self.predict(clip, labels)


class Task(NamedTuple):
    """A benchmark on one data folder."""

    name: str
    title: str
    dataset: Dataset[Any]
    scoring: Scoring[Any]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by the classes of its parts."""

    name: str
    """The word that selects it on the command line."""
    title: str
    """Name for people."""
    measures: str
    """Its scores, for `--help`."""
    dataset: type[Dataset[Any]]
    scoring: type[Scoring[Any]]
    propagation: type[LabelPropagation[Any]]


def protocol(task: Task, propagation: LabelPropagation[Any] | None = None) -> dict[str, Any]:
    """Every constant that the scores depend on; without a propagation those of scoring predictions from disk."""
    constants = task.dataset.model_dump(mode="json", exclude={"data"})
    if type(task.scoring).model_fields:
        constants["scoring"] = task.scoring.model_dump(mode="json")
    if propagation is not None:
        constants |= propagation.model_dump(mode="json", exclude={"propagation"})
        constants["propagation"] = propagation.propagation.model_dump(mode="json")
    return {**constants, **task.scoring.constants}


def protocol_name(task: Task, propagation: LabelPropagation[Any] | None = None, name: str = T_CORE) -> str:
    """Name of the protocol with the options that are not its own: `dino, changed: propagation.top_k=7`.

    Args:
        task: data set and scoring.
        propagation: as chosen by the user, before `fitted`; None for predictions from disk.
        name: the protocol it was chosen from.
    """
    changed: list[str] = []
    if propagation is None:
        name = "predictions from disk"
    else:
        changed += changes(propagation, preset(type(propagation), propagation.protocols, name, task.title))
    changed += [
        *changes(task.dataset, type(task.dataset)(data=task.dataset.data)),
        *changes(task.scoring, type(task.scoring)(), "scoring."),
    ]
    return f"{name}, changed: {', '.join(changed)}" if changed else name


def mean_row(rows: Sequence[Mapping[str, float]]) -> Scores:
    """Mean of each score over rows with the same scores; there must be at least one."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
