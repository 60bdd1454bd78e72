"""TAP-Vid-DAVIS: points in a video are given in one frame each, and their positions in the other frames are scored.

Layout of the data set, as distributed:
    tapvid_davis.pkl    {name: {video: uint8 (T, H, W, 3), points: (N, T, 2) in 0 to 1, occluded: (N, T)}}

As in the official evaluation, frames are resized to 256 x 256 and positions are measured there; the score is the share
of visible points within 1, 2, 4, 8 and 16 pixels, averaged over these thresholds and then over videos. Label
propagation says nothing about occlusion, so occlusion accuracy and average Jaccard are not computed.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from evaluation.benchmark import Array, Benchmark, Clip, ClipScores, Dataset, LabelPropagation, Scores, Scoring
from evaluation.frames import Frame, Size
from evaluation.jhmdb import load_points, save_points
from evaluation.jhmdb_scores import Points
from evaluation.pictures import draw_points
from evaluation.propagation import PropagationSettings, propagate
from evaluation.tapvid_pickle import SIDE, Video, parse_video, read_pickle
from evaluation.tapvid_scores import (
    THRESHOLDS,
    QueryMode,
    evaluated,
    labels_to_points,
    points_to_labels,
    sample_queries,
    shares_within,
    squared_distances,
)
from pipeline.settings import COUNT_LIMIT, UserError

FILE = "tapvid_davis.pkl"


@dataclass(frozen=True)
class _VideoFrame(Frame):
    """A frame in memory; `path` is the pickle."""

    number: int
    pixels: NDArray[np.uint8] = field(compare=False)

    @property
    def name(self) -> str:
        """The number, from 0."""
        return f"{self.number:05d}"

    def read(self) -> NDArray[np.uint8]:
        """The pixels (256, 256, 3)."""
        return self.pixels


@dataclass(frozen=True)
class TrackClip(Clip):
    """A video with Q points to track."""

    tracks: NDArray[np.float64]
    """(Q, T, 2) true positions, pixels."""
    query_frame: NDArray[np.int64]
    """(Q,) frame in which a position is given."""
    evaluated: NDArray[np.bool_]
    """(Q, T) where positions count."""
    both_ways: bool
    """Whether points are tracked to earlier frames, too."""


def _parsed(content: object) -> Video | UserError:
    try:
        return parse_video(content)
    except UserError as error:
        return error


@functools.lru_cache(maxsize=1)
def _videos(path: Path, _state: tuple[int, int]) -> dict[str, Video | UserError]:
    """All videos of the file in the size of the evaluation; the larger originals do not stay in memory."""
    content = read_pickle(path)
    return {name: _parsed(content.pop(name)) for name in list(content)}


class TapVid(Dataset[TrackClip]):
    """TAP-Vid-DAVIS in one folder."""

    suffix: ClassVar[str] = ".txt"

    query: QueryMode = "first"
    """Where a point is given. first: in the first frame in which it is visible, to be tracked from there on.
    strided: in every fifth frame in which it is visible, to be tracked both ways."""

    @property
    def frame_root(self) -> Path:
        """The folder of the file."""
        return self.data

    @property
    def file(self) -> Path:
        """The pickle."""
        return self.data / FILE

    def _content(self) -> dict[str, Video | UserError]:
        try:
            state = self.file.stat()
        except OSError as error:
            raise UserError(f"cannot read {self.file}: {error.strerror or error}") from error
        return _videos(self.file, (state.st_mtime_ns, state.st_size))

    def listed(self) -> list[str]:
        """All videos of the file."""
        return list(self._content())

    def names(self) -> list[str]:
        """The chosen videos, or all."""
        known = self.listed()
        for name in self.sequences:
            if name not in known:
                raise UserError(f"--sequences {name}: {self.file} has no such video, but {', '.join(known)}")
        return list(dict.fromkeys(self.sequences or known))

    def open(self, name: str) -> TrackClip:
        """Frames, tracks and queries of a video."""
        video = self._content()[name]
        if isinstance(video, UserError):
            raise UserError(f"video {name} of {self.file}: {video}")
        queries = sample_queries(video.visible, self.query)
        if not len(queries.track):
            raise UserError(f"video {name} of {self.file}: no point is visible where its position could be given")
        frames: list[Frame] = [
            _VideoFrame(self.file, (SIDE, SIDE), 1, number, pixels) for number, pixels in enumerate(video.frames)
        ]
        return TrackClip(
            name=name,
            frames=frames,
            notes=[],
            labeled=range(len(frames)),
            tracks=video.points[queries.track],
            query_frame=queries.frame,
            evaluated=evaluated(video.visible[queries.track], queries.frame, self.query),
            both_ways=self.query == "strided",
        )

    def truth(self, clip: TrackClip, index: int) -> Array:
        """(2, Q) pixels; NaN where the position does not count."""
        return np.where(clip.evaluated[:, index], clip.tracks[:, index].T, np.nan)

    def annotation_files(self, clip: TrackClip) -> list[Path]:
        """The one file."""
        return [self.file]

    def sha256(self, clip: TrackClip) -> str:
        """Hash of the resized frames, the tracks and what of them counts."""
        digest = hashlib.sha256()
        for frame in clip.frames:
            digest.update(frame.read().tobytes())
        for array in (clip.tracks, clip.query_frame, clip.evaluated):
            digest.update(f"{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def load(self, path: Path, clip: TrackClip) -> Array:
        """Points as `save` writes them."""
        return load_points(path, len(clip.tracks))

    def save(self, path: Path, prediction: Array) -> None:
        """Write a line `x y` for each query; `nan nan` where it has no position."""
        save_points(path, prediction)

    def draw(self, frame: NDArray[np.uint8], labels: Array) -> NDArray[np.uint8]:
        """A dot for each point."""
        return draw_points(frame, labels)


class TapVidScoring(Scoring[TrackClip]):
    """Share of the visible points whose predicted position is within some pixels of the true one."""

    detail: ClassVar[str] = "point"
    unscored: ClassVar[str] = "no frames"
    constants: ClassVar[Mapping[str, Any]] = {"thresholds": list(THRESHOLDS), "frame": [SIDE, SIDE]}
    columns: ClassVar[tuple[str, ...]] = (
        "average_pts_within_thresh",
        *(f"pts_within_{threshold}" for threshold in THRESHOLDS),
    )

    def scored_frames(self, clip: TrackClip) -> range:
        """All frames; what counts in them depends on the queries."""
        return range(len(clip.frames))

    def compare(self, clip: TrackClip, truth: Array, prediction: Array) -> Array:
        """Squared distances (Q,)."""
        return squared_distances(truth, prediction)

    def result(self, clip: TrackClip, compared: Mapping[int, Any]) -> ClipScores:
        """Over all points and frames of the video."""
        squared = np.stack(list(compared.values()))
        if np.isnan(squared).all():
            return ClipScores(None, {}, {}, reason="no point is visible in a frame other than that of its query")
        over_time = {
            index: float(shares_within(frame).mean()) for index, frame in compared.items() if not np.isnan(frame).all()
        }
        return ClipScores(self._named(shares_within(squared)), {}, over_time)

    def _named(self, shares: NDArray[np.float64]) -> Scores:
        return dict(zip(self.columns, [float(shares.mean()), *shares.tolist()], strict=True))


class PointPropagation(LabelPropagation[TrackClip]):
    """Background and one channel of soft labels for each point, from the frame of its query on."""

    size: Size = (SIDE, SIDE)
    """Height and width to which the 256 x 256 frames are stretched for the network; multiples of the patch size."""
    sigma: float = Field(default=0.5, gt=0, le=1000)
    """Standard deviation of a point's label on the patch grid, cells."""
    top_cells: int = Field(default=5, ge=1, le=COUNT_LIMIT)
    """A point is the weighted mean of this many cells with its highest labels."""
    propagation: PropagationSettings = PropagationSettings()

    def smallest_size(self) -> Size:
        """The one size."""
        return self.size

    def network_size(self, clip: TrackClip) -> Size:
        """The one size."""
        return self.size

    def _labels(self, clip: TrackClip, start: int, grid: Size) -> Tensor:
        """Soft labels of the points that are given in the frame `start`."""
        return points_to_labels(clip.tracks[clip.query_frame == start, start].T, SIDE, grid, self.sigma)

    def first_labels(self, clip: TrackClip, grid: Size) -> Tensor:
        """Those of the points that are given in the first frame."""
        return self._labels(clip, 0, grid)

    def predict(self, clip: TrackClip, labels: Tensor) -> Points:
        """(2, Q) pixels; NaN for lost points."""
        return labels_to_points(labels, SIDE, self.top_cells)

    def predictions(self, clip: TrackClip, features: Iterable[Tensor], grid: Size) -> Iterator[Array]:
        """(2, Q) pixels for each frame; NaN for lost points, and in frames to which a point is not tracked.

        The points given in one frame are propagated from there on together; the features of the whole clip are kept.
        """
        kept = list(features)
        positions = np.full((len(kept), 2, len(clip.tracks)), np.nan)
        for start in np.unique(clip.query_frame).tolist():
            labels, mine = self._labels(clip, start, grid), clip.query_frame == start
            ways = [range(start, len(kept))] + ([range(start, -1, -1)] if clip.both_ways else [])
            for way in ways:
                propagated = propagate((kept[index] for index in way), labels, self.propagation)
                for index, soft in zip(way, propagated, strict=True):
                    positions[index][:, mine] = self.predict(clip, soft)
        yield from positions


TAPVID = Benchmark(
    "tapvid", "TAP-Vid-DAVIS", "position accuracy of visible points", TapVid, TapVidScoring, PointPropagation
)
