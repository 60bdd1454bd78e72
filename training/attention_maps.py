"""`python -m training.attention_maps CHECKPOINT --shards DIR --out DIR`: pictures of the cross-attention.

For each clip a row with the current frame, the masked frame with the query patch framed in red, and each auxiliary
frame under the attention of the last Patch Matching Module (paper, figures 6 and 9).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg

from pipeline.dataset import ShardDataset
from pipeline.files import write_bytes
from pipeline.outputs import claim
from pipeline.reading import reason
from pipeline.report.contact_sheet import Row, Tile, contact_sheet
from pipeline.report.heat import heat
from pipeline.report.palette import ROLES
from pipeline.sampling.masks import draw_masks
from pipeline.sampling.plan import TRIPLET_FRAMES
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, center_boxes
from pipeline.settings import COUNT_LIMIT, Command, UserError, run_command
from training.backbone.numerics import pin_float32
from training.checkpoint import load_checkpoint
from training.model import TCoRe, TCoReSettings
from training.run_config import CONFIG

MASK_RATIO = 0.4
"""Fraction of the current frame's patches that are masked in the pictures."""

Pixels = NDArray[np.uint8]


class AttentionCommand(Command):
    """Draw the cross-attention of the Patch Matching Module on clips of a shard dataset."""

    program: ClassVar[str] = "python -m training.attention_maps"

    checkpoint: CliPositionalArg[Path]
    """Folder of a checkpoint, with model.safetensors and config.json."""
    shards: Path
    """Folder of a shard dataset of clips."""
    out: Path
    """Folder for the pictures, one PNG a clip."""
    keys: tuple[str, ...] = ()
    """Sample keys of the clips. Default: the first `clips` of the dataset."""
    clips: int = Field(8, ge=1, le=COUNT_LIMIT)
    """Number of clips if no keys are given."""


class ClipFrames(NamedTuple):
    """The frames of a clip, and the mask of the current one."""

    key: str
    frames: list[Pixels]  # current, then auxiliary frames, each (S, S, 3)
    mask: NDArray[np.bool_]  # (P,)


def frame_numbers(num_frames: int, duration_s: float, sandwich: SandwichSettings) -> list[int]:
    """The middle frame, and the auxiliary frames at their mean offsets: not random, so that runs can be compared."""
    middle = num_frames // 2
    per_unit = num_frames if sandwich.unit == "fraction" else num_frames / duration_s
    offsets = {"past": -np.mean(sandwich.past_offset), "future": np.mean(sandwich.future_offset)}
    auxiliary = [middle + round(float(offsets[direction]) * per_unit) for direction in sandwich.auxiliary]
    return [min(max(number, 0), num_frames - 1) for number in [middle, *auxiliary]]


def read_clip(dataset: ShardDataset, row: int, sandwich: SandwichSettings, size: int, side: int) -> ClipFrames:
    """The frames of a dataset row, cropped and resized to `size`, and a mask of side x side patches for this row."""
    frames = []
    if dataset.manifest.layout == "triplets":
        numbers = [TRIPLET_FRAMES[name] for name in ("current", *sandwich.auxiliary)]
    else:
        numbers = frame_numbers(int(dataset.num_frames[row]), float(dataset.duration_s[row]), sandwich)
    for number in numbers:
        image = Image.open(io.BytesIO(dataset.frame(row, number).tobytes())).convert("RGB")
        top, left, height, width = (int(edge[0]) for edge in center_boxes(*(np.array([n]) for n in image.size[::-1])))
        box = (left, top, left + width, top + height)
        frames.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    count = np.array([int(MASK_RATIO * side * side)])
    mask = draw_masks(count, np.array([row]), 0, 0, (side, side))[0]
    return ClipFrames(str(dataset.keys[row]), frames, mask)


def query_patch(mask: NDArray[np.bool_]) -> int:
    """Index of the masked patch nearest to the center of the frame."""
    side = round(len(mask) ** 0.5)
    rows, columns = np.divmod(np.flatnonzero(mask), side)
    nearest = np.hypot(rows - (side - 1) / 2, columns - (side - 1) / 2).argmin()
    return int(rows[nearest] * side + columns[nearest])


@torch.no_grad()
def cross_attention(model: TCoRe, clip: ClipFrames) -> list[NDArray[np.float32]]:
    """For each auxiliary frame, the attention (P, P) of current patches to its patches; rows sum to 1."""
    assert model.pmm is not None
    device = next(model.parameters()).device
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = torch.from_numpy(np.stack(clip.frames)).float() / 255
    images = ((pixels - mean) / deviation).permute(0, 3, 1, 2).to(device)
    was_training = model.training
    model.eval()
    try:
        current = model.student.backbone(images[:1], torch.from_numpy(clip.mask)[None].to(device)).patches
        auxiliary = model.student.backbone(images[1:]).patches
        maps = model.pmm.attention_maps(current.expand(len(auxiliary), -1, -1), auxiliary)
    finally:
        model.train(was_training)
    return [np.asarray(attention.float().cpu()) for attention in maps[-1].cross]


def draw_clip(clip: ClipFrames, maps: Sequence[NDArray[np.float32]], names: Sequence[str]) -> Row:
    """The row of pictures of a clip; `names` are those of its auxiliary frames."""
    size = clip.frames[0].shape[0]
    side = round(len(clip.mask) ** 0.5)
    patch = size // side
    query = query_patch(clip.mask)
    shown = np.kron(~clip.mask.reshape(side, side), np.ones((patch, patch), bool))[..., None]
    current = Image.fromarray(np.where(shown, clip.frames[0], np.uint8(127)))
    top, left = patch * (query // side), patch * (query % side)
    ImageDraw.Draw(current).rectangle((left, top, left + patch - 1, top + patch - 1), outline=(255, 0, 0), width=3)
    tiles = [Tile(Image.fromarray(clip.frames[0]), "current"), Tile(current, "masked")]
    for frame, attention, name in zip(clip.frames[1:], maps, names, strict=True):
        warm = heat(frame, attention[query].reshape(side, side))
        tiles.append(Tile(Image.fromarray(warm), name, ROLES[name]))
    return Row(clip.key, tiles)


def draw_maps(
    model: TCoRe, dataset: ShardDataset, rows: Sequence[int], sandwich: SandwichSettings, size: int, out: Path
) -> list[Path]:
    """Write OUT/KEY.png for each dataset row and return the paths."""
    side = size // model.settings.backbone.patch_size
    written = []
    for row in rows:
        clip = read_clip(dataset, row, sandwich, size, side)
        written.append(out / f"{clip.key}.png")
        write_bytes(written[-1], contact_sheet([draw_clip(clip, cross_attention(model, clip), sandwich.auxiliary)]))
    return written


def load_model(checkpoint: Path) -> tuple[TCoRe, SandwichSettings]:
    """The model of a checkpoint, and the settings of the frames that it was trained on.

    Raises:
        UserError: the checkpoint is missing or damaged, or its model has no auxiliary branch over clips.
    """
    content = load_checkpoint(checkpoint, optimizer=False)
    try:
        model = TCoRe(TCoReSettings.model_validate(content.config["model"]))
        sandwich = SandwichSettings.model_validate(content.config["data"]["sandwich"])
        model.load_state_dict(content.model)
    except (KeyError, TypeError, RuntimeError, ValidationError) as error:  # PyTorch names the tensors that do not match
        raise UserError(
            f"{checkpoint / CONFIG} does not describe the model of this checkpoint: {reason(error)}"
        ) from error
    if not model.pmm or not sandwich.auxiliary:
        raise UserError(f"{checkpoint} was trained without past or future frames: it has no cross-attention to draw")
    return model, sandwich


def main(command: AttentionCommand) -> None:
    """Draw the pictures and print their number."""
    pin_float32()
    model, sandwich = load_model(command.checkpoint)
    dataset = ShardDataset(command.shards)
    known = {str(key): row for row, key in enumerate(dataset.keys)}
    if unknown := [key for key in command.keys if key not in known]:
        raise UserError(f"{command.shards} has no sample {unknown[0]}; its keys are in index.parquet")
    rows = [known[key] for key in command.keys] or list(range(min(command.clips, len(dataset))))
    claim(command.out, command.program, [f"{dataset.keys[row]}.png" for row in rows])
    paths = draw_maps(model, dataset, rows, sandwich, model.settings.backbone.image_size, command.out)
    print(f"{len(paths)} pictures in {command.out}")


if __name__ == "__main__":
    run_command(AttentionCommand, main)
