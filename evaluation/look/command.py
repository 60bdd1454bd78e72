"""Options and program of `python -m evaluation look`."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg
from torch import Tensor
from tqdm import tqdm

from evaluation.backbones import Checkpoint
from evaluation.benchmark import Array
from evaluation.command import PROGRAM, WeightsCommand, checkpoint_names, open_checkpoints
from evaluation.frames import Side, Size, network_input
from evaluation.look.page import PICTURE, Network, PageFrames, Shown, frames_of_page, quantized
from evaluation.look.passes import Passes, picture, pictures
from evaluation.look.principal import fit_colors
from evaluation.look.targets import PointTarget, Target, mask_target, read_points, video_clip
from evaluation.look.video import side_by_side, video_writer
from evaluation.masks import MaskClip, MaskPropagation
from evaluation.pictures import Picture
from evaluation.propagation import propagate
from evaluation.protocols import T_CORE, overlaid, preset
from pipeline.files import write_bytes
from pipeline.outputs import claim
from pipeline.report.contact_sheet import Row, Tile, contact_sheet, shrink, spread
from pipeline.settings import UserError
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings
from pipeline.temporary import full_disk_is_temporary, no_temporary_files

VIDEO, SHEET, PAGE = "look.mp4", "sheet.png", "page.html"
_SHORT_SIDE = 256
_SHEET_FRAMES = 6
_MOST_FRAMES = 1_000_000
_DEADLINE_S = 6 * 3600.0


class LookCommand(WeightsCommand):
    """Show the patch features of videos: principal components as colors, and the similarity to a patch that is clicked.

    Writes OUT/VIDEO/look.mp4, sheet.png and page.html, which works offline. With --mask or --points, these show where
    label propagation takes them.
    """

    program: ClassVar[str] = f"{PROGRAM} look"

    videos: CliPositionalArg[tuple[Path, ...]]
    """Videos of any kind that ffmpeg reads."""
    out: Path
    """Folder for a folder of results for each video."""
    fps: float = Field(10.0, ge=0.01, le=240)
    """Frames per second that are taken from a video."""
    size: tuple[Side, ...] | None = None
    """Height and width of the network's input, or the shorter side alone. Default: 256 as the shorter side, both sides
    rounded up to patches; with --mask or --points that of the protocol."""
    background: bool = False
    """Show patches on the border's side of the first component as black, and the components of the others."""
    mask: Path | None = None
    """PNG with the ids of objects in the first frame, which are propagated."""
    points: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    """Points of the first frame that are propagated: x,y,x,y,... from 0 to below 1, as shares of width and height from
    the upper left corner."""
    protocol: Literal["t-core", "dino", "dinov3"] = T_CORE
    """Preset of label propagation for --mask and --points."""

    @field_validator("videos")
    @classmethod
    def _at_least_one_video(cls, videos: tuple[Path, ...]) -> tuple[Path, ...]:
        if not videos:
            raise ValueError("give at least one video")
        return videos

    @field_validator("size")
    @classmethod
    def _one_or_two_sides(cls, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if size is not None and len(size) not in (1, 2):
            raise ValueError("must be a height and a width, as in 480,880, or the shorter side alone")
        return size

    @field_validator("points")
    @classmethod
    def _pairs(cls, points: tuple[float, ...]) -> tuple[float, ...]:
        read_points(points)
        return points

    @model_validator(mode="after")
    def _one_target(self) -> "LookCommand":
        if self.mask is not None and self.points:
            raise ValueError("mask and points cannot be propagated at once: give one of them")
        return self

    @property
    def propagates(self) -> bool:
        """Whether there is something to propagate."""
        return self.mask is not None or bool(self.points)


def chosen_settings(command: LookCommand) -> MaskPropagation:
    """Size and resizing of the network's input, and the constants of the propagation."""
    size = {} if command.size is None else {"size": command.size}
    if command.propagates:
        return overlaid(preset(MaskPropagation, MaskPropagation.protocols, command.protocol, "look"), size)
    # antialiased, as there is no protocol to follow
    return MaskPropagation.model_validate({"size": (_SHORT_SIDE,), "rounding": "up", "resampling": "dinov3", **size})


class View:
    """A network that looks at a clip: features, colors, and what it propagates."""

    def __init__(self, checkpoint: Checkpoint, settings: MaskPropagation, clip: MaskClip, command: LookCommand) -> None:
        self.name = checkpoint.name
        self.settings = settings.fitted(checkpoint.extractor.patch_size)
        self.size = self.settings.network_size(clip)
        self.grid = checkpoint.extractor.grid(self.size)
        self.target: Target | None = None
        if command.mask is not None:
            self.target = mask_target(command.mask, clip, self.settings)
        elif command.points:
            self.target = PointTarget(read_points(command.points))
        self._extractor, self._batch_size = checkpoint.extractor, command.batch_size

    def passes(self, jpegs: Sequence[bytes]) -> Passes:
        """Passes over the features of the frames."""

        def compute() -> Iterator[Tensor]:
            images = (network_input(frame, self.size, self.settings.resampling) for frame in pictures(jpegs))
            return self._extractor.stream(images, self._batch_size)

        return Passes(compute)

    def predictions(self, features: Iterator[Tensor]) -> Iterator[tuple[Tensor, Array | None]]:
        """The features of each frame, with the propagated labels."""
        if self.target is None:
            yield from ((frame, None) for frame in features)
            return
        last: list[Tensor] = []

        def noted() -> Iterator[Tensor]:
            for frame in features:
                last[:] = [frame]
                yield frame

        for labels in propagate(noted(), self.target.first_labels(self.grid), self.settings.propagation):
            yield last[0], self.target.predict(labels)


def look_at(video: Path, checkpoints: Sequence[Checkpoint], command: LookCommand, out: Path) -> int:
    """Write the results for a video into the folder `out`, and return the number of frames.

    Raises:
        UserError: the video cannot be decoded, or the mask does not fit it.
    """
    settings = chosen_settings(command)
    frame_settings = FrameSettings(
        fps=command.fps,
        short_side=max(16, min(settings.size)),
        min_frames=1,
        max_frames=_MOST_FRAMES,
        deadline_s=_DEADLINE_S,
    )
    with ExitStack() as stack:
        with full_disk_is_temporary():
            try:
                spool = stack.enter_context(tempfile.TemporaryFile())
            except OSError as error:
                raise no_temporary_files(error.strerror or error) from error
            try:
                jpegs = extract_frames(video, frame_settings, spool).jpegs
            except Rejected as error:
                raise UserError(f"cannot look at {video}: {error.detail} ({error.reason.value})") from error
        first = picture(jpegs[0])
        clip = video_clip(video, (first.shape[0], first.shape[1]))
        views = [View(checkpoint, settings, clip, command) for checkpoint in checkpoints]
        claim(out, command.program, (VIDEO, SHEET, PAGE))
        _write(out, video, views, jpegs, command)
    return len(jpegs)


def _write(out: Path, video: Path, views: Sequence[View], jpegs: Sequence[bytes], command: LookCommand) -> None:
    count, names = len(jpegs), [view.name for view in views]
    total = (3 if command.background else 2) * count * len(views)
    progress = tqdm(total=total, unit="frame", desc=video.stem, mininterval=1)

    def counted(features: Passes) -> Iterator[Tensor]:
        for frame in features():
            progress.update()
            yield frame

    passes = [view.passes(jpegs) for view in views]
    colorings = [fit_colors(partial(counted, features), command.background) for features in passes]
    rows = [Row("frames", []), *(Row(name, []) for name in names)]
    rows += [Row(f"{name}, propagated", []) for name in names if command.propagates]
    tiles: list[list[Tile]] = [[] for _ in rows]
    networks: list[Network] = []
    page, on_page, on_sheet = PageFrames(), set[int](), set(spread(count, _SHEET_FRAMES))
    with ExitStack() as stack:
        write = None
        streams = [view.predictions(counted(features)) for view, features in zip(views, passes, strict=True)]
        for number, (frame, *seen) in enumerate(zip(pictures(jpegs), *streams, strict=True)):
            if not networks:
                networks = [
                    Network(view.name, view.grid, features.shape[-1])
                    for view, (features, _) in zip(views, seen, strict=True)
                ]
                on_page = set(frames_of_page(count, networks))
            shown = shrink(frame, PICTURE)
            colors = [coloring.colors(features) for coloring, (features, _) in zip(colorings, seen, strict=True)]
            drawn = [
                shrink(view.target.draw(frame, labels), PICTURE)
                for view, (_, labels) in zip(views, seen, strict=True)
                if view.target is not None and labels is not None
            ]
            row = [shown, *(enlarged(some, shown.size) for some in colors), *drawn]
            joined = side_by_side(row, [f"{number / command.fps:.2f} s", *(one.heading for one in rows[1:])])
            if write is None:
                write = stack.enter_context(video_writer(out / VIDEO, joined.size, command.fps))
            write(np.asarray(joined))
            if number in on_sheet:
                for column, part in zip(tiles, row, strict=True):
                    column.append(Tile(shrink(part, (240, 180)), f"{number / command.fps:.2f} s"))
            if number in on_page:
                page.add(Shown(number, shown, [quantized(features) for features, _ in seen], colors, drawn))
    progress.close()
    filled = [row._replace(tiles=column) for row, column in zip(rows, tiles, strict=True)]
    note = "Principal components of the patch features, one basis for the clip and network"
    write_bytes(out / SHEET, contact_sheet(filled, video.name, note))
    if on_page:
        write_bytes(out / PAGE, page.render(video.name, networks, count, command.fps, _facts(views, command)).encode())
    else:
        print(f"note: no {PAGE}, as the features of one frame take more than its 20 MB: give a smaller --size")


def enlarged(colors: Picture, size: tuple[int, int]) -> Image.Image:
    """Colors of patches (gh, gw, 3) as a picture of `size` (width, height) with visible patches."""
    return Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)


def _facts(views: Sequence[View], command: LookCommand) -> dict[str, str]:
    def shown(size: Size) -> str:
        return f"{size[0]} x {size[1]}"

    facts = {
        f"input of {view.name}, height x width": f"{shown(view.size)}, {shown(view.grid)} patches" for view in views
    }
    if command.background:
        facts["background"] = "black: patches on the border's side of the first component"
    if command.propagates:
        facts["propagation"] = f"protocol {command.protocol}, of {command.mask or f'{len(command.points) // 2} points'}"
    return facts


def run_look(command: LookCommand) -> int:
    """Look at each video; returns 1 if one of them cannot be used, else 0."""
    if missing := [video for video in command.videos if not video.exists()]:
        raise UserError(f"there is no video {missing[0]}")
    checkpoints = open_checkpoints(command)
    failed = 0
    for video, name in zip(command.videos, checkpoint_names(command.videos), strict=True):
        try:
            frames = look_at(video, checkpoints, command, command.out / name)
        except UserError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
        else:
            print(f"{video}: {frames} frames, {command.out / name}")
    return int(failed > 0)
