"""What a benchmark has to say of itself, so that `evaluate` can run it: its clips, labels, predictions and scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.frames import Frame
from evaluation.propagation import PropagationSettings
from pipeline.settings import UserError

Scores = dict[str, float]
Array = NDArray[Any]


@dataclass(frozen=True)
class Clip:
    """One sequence: its name, with `/` where it lies in a class folder, and its frames in order."""

    name: str
    frames: list[Frame]
    notes: list[str]
    """What is odd about its files, and how it is taken."""


@dataclass(frozen=True)
class SequenceResult:
    """What became of one sequence; scores are fractions."""

    status: Literal["scored", "unscored", "failed"]
    reason: str | None = None
    """Why there is no score."""
    frames: int = 0
    frames_scored: int = 0
    scores: Scores | None = None
    details: dict[str, Scores] = field(default_factory=dict)
    """Scores of each object, class or joint."""
    over_time: dict[str, float] = field(default_factory=dict)
    """Score of each scored frame, by the name of the frame."""
    notes: list[str] = field(default_factory=list)
    """What was odd, and how it was counted."""
    sha256: str | None = None
    """Hash of the frames and annotations."""
    counts: Array | None = None
    """What the overall score is computed from, where that is not the sequences' scores."""


ClipT = TypeVar("ClipT", bound=Clip)


class Task(ABC, Generic[ClipT]):
    """A benchmark on one data folder. Predictions are arrays of NumPy: an index mask, or positions of joints."""

    name: ClassVar[str]
    title: ClassVar[str]
    columns: tuple[str, ...]
    """Names of the scores; the first one is the score."""
    detail: ClassVar[str]
    """What `SequenceResult.details` are of: object, class, joint."""
    suffix: ClassVar[str]
    """Ending of a frame's prediction file."""
    propagation: PropagationSettings

    @abstractmethod
    def names(self) -> list[str]:
        """The sequences to evaluate. Raises UserError if the data set has no such list."""

    @abstractmethod
    def open(self, name: str) -> ClipT:
        """Find a sequence's files and check that they fit together. Raises UserError if they do not."""

    @abstractmethod
    def smallest_size(self) -> tuple[int, int]:
        """Height and width of which every network size is made: if the patch size divides them, it divides all."""

    @abstractmethod
    def network_size(self, clip: ClipT) -> tuple[int, int]:
        """Height and width to which the clip's frames are stretched."""

    @abstractmethod
    def first_labels(self, clip: ClipT, grid: tuple[int, int]) -> Tensor:
        """Soft labels (gh, gw, L) of the first frame."""

    @abstractmethod
    def predict(self, clip: ClipT, labels: Tensor) -> Array:
        """The prediction for a frame from its propagated soft labels (gh, gw, L)."""

    @abstractmethod
    def save(self, path: Path, prediction: Array) -> None:
        """Write a prediction to a file."""

    @abstractmethod
    def load(self, path: Path, clip: ClipT) -> Array:
        """Read a prediction from a file. Raises UserError if it is none or does not fit the clip."""

    @abstractmethod
    def is_scored(self, clip: ClipT, number: int) -> bool:
        """Whether the protocol scores frame `number`."""

    @abstractmethod
    def compare(self, clip: ClipT, truth: Array, prediction: Array) -> Any:  # noqa: ANN401
        """Judge the prediction for a frame that is scored by its truth."""

    @abstractmethod
    def result(self, clip: ClipT, judged: Mapping[int, Any]) -> SequenceResult:
        """The scores of a clip from what `compare` gave for its scored frames, by frame number."""

    def observe(self, truth: Array, prediction: Array) -> Any:  # noqa: ANN401
        """What `notes` wants to know of a frame that is scored."""
        return None

    def notes(self, clip: ClipT, observed: Mapping[int, Any]) -> list[str]:
        """What is odd about the truth or the predictions of a clip, from what `observe` gave by frame number."""
        return []

    @abstractmethod
    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """`scores` over all scored sequences (at least one), and what else the result file tells of all together."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Every constant that the scores depend on."""

    @abstractmethod
    def annotation_files(self, clip: ClipT) -> list[Path]:
        """The files that the truth of a clip is read from."""

    @abstractmethod
    def draw(self, frame: NDArray[np.uint8], prediction: Array) -> NDArray[np.uint8]:
        """An RGB frame (H, W, 3) with a prediction drawn on it."""

    @abstractmethod
    def truth(self, clip: ClipT, number: int) -> Array | None:
        """What a perfect prediction for frame `number` would be; None if it is not annotated.

        Raises UserError if it cannot be read.
        """


def frame_name(clip: Clip, number: int) -> str:
    """Name of a frame without its ending; predictions bear it too."""
    return clip.frames[number].path.stem


def chosen_sequences(asked: Sequence[str], folder: Path) -> list[str]:
    """The sequences named on the command line, each of which must be a folder below `folder`.

    Raises:
        UserError: one is not.
    """
    names = [plain_name(name) for name in asked]
    for name in names:
        check_sequence_name(name)
        if not (folder / name).is_dir():
            raise UserError(f"--sequences {name}: there is no such folder in {folder}")
    return list(dict.fromkeys(names))


def plain_name(written: str) -> str:
    """A sequence's name as shells and `find` complete it (`./dog/`), without what does not belong to it."""
    return PurePosixPath(written).as_posix() if written else written


def check_sequence_name(name: str) -> None:
    """Make sure that a name from a list stays below the data folder.

    Raises:
        UserError: it does not.
    """
    if not name or Path(name).is_absolute() or any(part in (".", "..", "") for part in name.split("/")):
        raise UserError(f"{name!r} is no name of a sequence; it must be that of a folder, without `..`")


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file without blanks around them, empty ones and a byte order mark left out.

    Raises:
        UserError: there is no such file, or it is in another encoding.
    """
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("[!.]*.txt"))) or "none"
        raise UserError(f"cannot read the list of sequences {path}; lists that exist there: {known}") from error
    if "\0" in text:
        raise UserError(f"the list of sequences {path} is not UTF-8 text (UTF-16?); save it as UTF-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_list(path: Path) -> list[str]:
    """The names in a list of sequences, one a line, without repetitions.

    Raises:
        UserError: there is no such list, or it is empty.
    """
    names = [plain_name(line) for line in read_lines(path)]
    if not names:
        raise UserError(f"the list of sequences {path} is empty")
    return list(dict.fromkeys(names))
