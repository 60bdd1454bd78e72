"""DAVIS-2017, semi-supervised: the masks of a clip's first frame are given, J and F judge those of the others.

Layout of the data set, as distributed:
    ImageSets/2017/val.txt            one sequence name a line
    JPEGImages/480p/SEQUENCE/*.jpg
    Annotations/480p/SEQUENCE/*.png   palette masks of object ids; 255 is void and counts as background

As in the official scorer, the objects are those of the first mask, the first and the last frame are not scored, and
the global row is the mean over the objects of all sequences. Two cases that the official data does not have: a frame
without a mask is left out of the score, and an id that the first mask skips is no object (the official scorer would
count it as one that was found perfectly).
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from evaluation.backbones import Extractor
from evaluation.command import (
    PREDICTIONS,
    SHEETS,
    EvaluationCommand,
    fingerprint,
    prepare_output,
    provenance,
    start,
    write_result,
)
from evaluation.davis_scores import BOUNDARY_TOLERANCE, boundary_measure, mean_row, object_row, region_similarity
from evaluation.frames import image_size, network_input, read_frame, read_index_mask
from evaluation.labels import labels_to_mask, mask_to_labels
from evaluation.pictures import Column, save_contact_sheet, save_mask, sheet_frames
from evaluation.propagation import PropagationSettings, propagate
from pipeline.files import atomic_path
from pipeline.settings import UserError

TASK = "davis"
COLUMNS = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


class DavisCommand(EvaluationCommand):
    """Score frozen features on DAVIS-2017 by label propagation (J, F and their recall and decay)."""

    program: ClassVar[str] = "python -m evaluation davis"

    split: str = "val"
    """Which list of ImageSets/2017 to evaluate."""
    sequences: tuple[str, ...] = ()
    """Evaluate these sequences instead of the list's, e.g. --sequences dog,bmx-trees."""
    resolution: str = "480p"
    """Folder below JPEGImages and Annotations."""
    size: tuple[int, int] = Field(default=(480, 880))
    """Height and width to which frames are stretched for the network, e.g. --size 480,880; multiples of the patch."""
    propagation: PropagationSettings = PropagationSettings()

    @field_validator("size", mode="before")
    @classmethod
    def _two_numbers(cls, size: Sequence[object]) -> Sequence[object]:
        if len(size) != 2:
            raise ValueError("must be a height and a width, e.g. 480,880")
        return size


class Clip(NamedTuple):
    """The files of one sequence."""

    name: str
    frames: list[Path]
    masks: dict[int, Path]
    """Mask files by the position of their frame."""


Scores = dict[str, float]


@dataclass(frozen=True)
class SequenceResult:
    """What became of one sequence; scores are fractions under the names of the official tables."""

    status: Literal["scored", "unscored", "failed"]
    reason: str | None = None
    """Why there is no score."""
    frames: int = 0
    frames_scored: int = 0
    scores: Scores | None = None
    """Mean over the objects."""
    objects: dict[int, Scores] = field(default_factory=dict)
    skipped_ids: list[int] = field(default_factory=list)
    """Ids below the highest one that the first mask does not show."""
    sha256: str | None = None
    """Hash of the frames and masks."""


def sequence_names(data: Path, split: str) -> list[str]:
    """The sequences of a split, in the order of its list.

    Raises:
        UserError: there is no such list, or it is empty.
    """
    path = data / "ImageSets" / "2017" / f"{split}.txt"
    try:
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"cannot read the list of sequences {path}; lists that exist there: {known}") from error
    if not names:
        raise UserError(f"the list of sequences {path} is empty")
    return list(dict.fromkeys(names))


def find_clip(data: Path, resolution: str, name: str) -> Clip:
    """Collect a sequence's frames and masks and check that they fit together.

    Raises:
        UserError: no frames, a mask without its frame, no mask for the first frame, or masks of several sizes.
    """
    if name in (".", "..") or Path(name).name != name:
        raise UserError(f"{name!r} is no name of a sequence; it must be that of a folder, without a path")
    frame_folder = data / "JPEGImages" / resolution / name
    mask_folder = data / "Annotations" / resolution / name
    frames = sorted(frame_folder.glob("*.jpg"))
    if not frames:
        raise UserError(f"there are no .jpg frames in {frame_folder}")
    position = {frame.stem: number for number, frame in enumerate(frames)}
    masks = {}
    for file in sorted(mask_folder.glob("*.png")):
        if file.stem not in position:
            raise UserError(f"the mask {file} has no frame {frame_folder / file.stem}.jpg")
        masks[position[file.stem]] = file
    if 0 not in masks:
        raise UserError(f"the first frame {frames[0]} has no mask {mask_folder / frames[0].stem}.png to start from")
    sizes = {number: image_size(file) for number, file in masks.items()}
    for number, size in sizes.items():
        if size != sizes[0]:
            raise UserError(
                f"the mask {masks[number]} measures {size[1]}x{size[0]}, "
                f"but {masks[0].name} of the same sequence {sizes[0][1]}x{sizes[0][0]}"
            )
    return Clip(name, frames, masks)


def evaluate_clip(
    clip: Clip,
    extractor: Extractor,
    command: DavisCommand,
    progress: "tqdm[Any]",
) -> SequenceResult:
    """Propagate the first mask through one clip, write its predictions and its contact sheet, and score it.

    Raises:
        UserError: a file of the clip cannot be read, or the first mask shows no object.
    """
    first_mask = read_index_mask(clip.masks[0])
    objects = [int(one) for one in np.unique(first_mask) if one]
    ids = [0, *objects]
    if not objects:
        raise UserError(f"the first mask {clip.masks[0]} shows no object (ids 1 to 254)")
    region: dict[int, list[float]] = {one: [] for one in objects}
    contour: dict[int, list[float]] = {one: [] for one in objects}

    images = (network_input(read_frame(path), command.size) for path in clip.frames)
    features = extractor.stream(images, command.batch_size)
    first_labels = mask_to_labels(first_mask, ids, command.size, extractor.grid(command.size))
    predictions = command.out / PREDICTIONS / clip.name
    with atomic_path(predictions) as folder:
        folder.mkdir()
        for number, labels in enumerate(propagate(features, first_labels, command.propagation)):
            prediction = labels_to_mask(labels, ids, command.size, first_mask.shape)
            save_mask(folder / f"{clip.frames[number].stem}.png", prediction)
            if number in clip.masks and 0 < number < len(clip.frames) - 1:
                truth = read_index_mask(clip.masks[number])
                for one in objects:
                    region[one].append(region_similarity(truth == one, prediction == one))
                    contour[one].append(boundary_measure(truth == one, prediction == one))
            progress.update()
    _save_sheet(clip, predictions, command.out / SHEETS / f"{clip.name}.png")

    scored = len(region[objects[0]])
    rows = {one: object_row(region[one], contour[one]) for one in objects}
    return SequenceResult(
        status="scored" if scored else "unscored",
        reason=None if scored else "no mask between the first and the last frame to score against",
        frames=len(clip.frames),
        frames_scored=scored,
        scores=mean_row(list(rows.values())) if scored else None,
        objects=rows if scored else {},
        skipped_ids=sorted(set(range(1, objects[-1])) - set(objects)),
        sha256=fingerprint(command.data, [*clip.frames, *clip.masks.values()]),
    )


def _save_sheet(clip: Clip, predictions: Path, path: Path) -> None:
    columns = []
    for number in sheet_frames(len(clip.frames)):
        frame = clip.frames[number]
        truth = read_index_mask(clip.masks[number]) if number in clip.masks else None
        prediction = read_index_mask(predictions / f"{frame.stem}.png")
        columns.append(Column(f"{clip.name} {frame.stem}", read_frame(frame), prediction, truth))
    save_contact_sheet(path, columns)


def global_row(results: Mapping[str, SequenceResult]) -> Scores | None:
    """Mean over the objects of all scored sequences; None if there are none."""
    rows = [row for result in results.values() for row in result.objects.values()]
    return mean_row(rows) if rows else None


def _chosen_names(command: DavisCommand) -> list[str]:
    if not command.data.is_dir():
        raise UserError(f"--data {command.data} is not a folder")
    if not command.sequences:
        return sequence_names(command.data, command.split)
    folder = command.data / "JPEGImages" / command.resolution
    known = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in command.sequences:
        if name not in known:
            raise UserError(f"--sequences {name}: there is no such folder in {folder}")
    return list(dict.fromkeys(command.sequences))


def run(command: DavisCommand) -> int:
    """Evaluate all sequences and write `OUT/davis.json` last; returns 1 if a sequence failed, else 0.

    Raises:
        UserError: something is wrong that concerns every sequence, such as the weights or the folders.
    """
    started = time.perf_counter()
    names = _chosen_names(command)
    origin, extractor = provenance(command), start(command)
    extractor.grid(command.size)
    prepare_output(command.out, command.data, TASK)
    results: dict[str, SequenceResult] = {}
    clips = []
    for name in names:
        try:
            clips.append(find_clip(command.data, command.resolution, name))
        except UserError as error:
            results[name] = SequenceResult("failed", str(error))
    with tqdm(total=sum(len(clip.frames) for clip in clips), unit="frame") as progress:
        for clip in clips:
            progress.set_description(clip.name)
            try:
                results[clip.name] = evaluate_clip(clip, extractor, command, progress)
            except UserError as error:
                results[clip.name] = SequenceResult("failed", str(error), frames=len(clip.frames))
    results = {name: results[name] for name in names}
    protocol = command.model_dump(mode="json", include={"split", "sequences", "resolution", "size", "propagation"})
    record = {
        "task": TASK,
        "scores": global_row(results),
        "sequences": {name: asdict(result) for name, result in results.items()},
        "protocol": protocol | {"patch_size": extractor.patch_size, "boundary_tolerance": BOUNDARY_TOLERANCE},
        "data": {"path": str(command.data), "sha256": _data_hash(results)},
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_result(command.out / f"{TASK}.json", record | origin)
    print(table(results), f"Result, predictions and contact sheets: {command.out}", sep="\n")
    return int(any(result.status == "failed" for result in results.values()))


def _data_hash(results: Mapping[str, SequenceResult]) -> str:
    lines = "".join(f"{name} {result.sha256}\n" for name, result in sorted(results.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def table(results: Mapping[str, SequenceResult]) -> str:
    """The scores in per cent, a line for each sequence and one for all objects together."""
    width = max(map(len, (*results, "all objects")))

    def line(name: str, scores: Scores, note: str) -> str:
        return name.ljust(width) + "".join(f"{100 * scores[column]:10.1f}" for column in COLUMNS) + f"  {note}"

    lines = ["per cent".ljust(width) + "".join(f"{column:>10}" for column in COLUMNS) + "  scored"]
    for name, result in results.items():
        if result.scores is None:
            lines.append(f"{name.ljust(width)}  {result.status}: {result.reason}")
        else:
            lines.append(line(name, result.scores, f"{result.frames_scored} of {result.frames} frames"))
    if (scores := global_row(results)) is not None:
        scored = sum(result.status == "scored" for result in results.values())
        lines.append(line("all objects", scores, f"{scored} of {len(results)} sequences"))
    else:
        lines.append(f"No score: none of {len(results)} sequences could be scored.")
    return "\n".join(lines)
