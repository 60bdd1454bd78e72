"""From the tensors of a file of any project to the settings and tensors of our `VisionTransformer`: pure functions.

Nothing is guessed: what a file leaves open must be given as an option, and a tensor that is neither part of the
backbone nor known to be outside it is refused by name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.reading import reason
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.families import (
    FAMILIES,
    BackboneOptions,
    choose_family,
    choose_heads,
    possible_families,
    refuse_contradiction,
)
from training.backbone.names import backbone_prefixes, is_backbone, our_name, why_foreign
from training.backbone.vit import ARCHITECTURES, VitSettings

_AUTHORS = "teacher.backbone."
_AUTHORS_HEADS = {384: 6, 768: 12}
"""Heads of the published models of T-CoRe by width; their files do not say it."""


class Layout(NamedTuple):
    """A backbone of a file under the names of `VisionTransformer`, and what became of the tensors of the file."""

    settings: VitSettings
    tensors: dict[str, Tensor]
    family: str
    mapped: tuple[str, ...]
    """Names in the file."""
    initial: tuple[str, ...]
    """Parameters that the file does not have, and the value they get."""
    ignored: tuple[str, ...]
    """Names in the file."""


def read_layout(
    tensors: Mapping[str, Tensor], said: Mapping[str, object], options: BackboneOptions, source: Path
) -> Layout:
    """The backbone among the tensors of a file.

    Args:
        tensors: all tensors of the file, by dotted names.
        said: settings that a configuration beside the file states, and perhaps its `family`.
        options: what the user says.
        source: the file or folder, for messages.

    Raises:
        UserError: another architecture (names the tensor), an incomplete one, a contradiction, or something is missing
            that the file does not say (names the option).
    """
    prefix = select(tensors, options.part, source)
    names = {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    with_decoder = any(name.startswith("decoder") for name in names.values())
    mapped: dict[str, str] = {}
    for name, bare in names.items():
        ours = our_name(bare)
        if is_backbone(ours, with_decoder):
            mapped[ours] = name
        elif why := why_foreign(ours):
            raise UserError(f"{source} is another architecture: {name} ({why})")
    found = {ours: tensors[name].float() for ours, name in mapped.items()}
    width = _width(found["patch_embed.proj.weight"], source)
    if "family" in said:
        family = str(said["family"])
    else:
        if any(name.startswith("embeddings.") for name in names.values()):
            raise UserError(f"{source} is part of a transformers folder: give the folder, which has its config.json")
        possible = possible_families(names.values(), prefix)
        family = choose_family(possible, options, width, source)
    _check_shapes(found, width, source)
    facts = _sizes(found, source)
    positions = _positions(found, family, said.get("image_size", options.image_size), source)
    facts["image_size"] = positions.image_size
    for key, value in facts.items():
        if said.get(key, value) != value:
            raise UserError(f"{source} says {key} = {said[key]}, but its tensors have {value}")
    facts |= {key: value for key, value in said.items() if key in VitSettings.model_fields}
    if family == "dinov2_with_registers" and prefix == _AUTHORS and width in _AUTHORS_HEADS and options.heads is None:
        facts.setdefault("heads", _AUTHORS_HEADS[width])
    facts["heads"] = choose_heads(facts.get("heads"), options, family, width, source)
    facts.setdefault("norm_eps", options.norm_eps or 1e-6)
    if family in FAMILIES:
        facts.setdefault("interpolation", FAMILIES[family].interpolation)
    refuse_contradiction(facts, options.given(), source)
    shape = {key: facts[key] for key in ("width", "depth", "heads")}
    facts["architecture"] = next((name for name, known in ARCHITECTURES.items() if known == shape), None)
    try:
        settings = VitSettings.model_validate(facts)
    except ValidationError as error:
        raise UserError(f"{source} does not describe a backbone: {reason(error)}") from error
    complete, initial = _complete(found, settings, positions.extra)
    kept = set(mapped.values())
    return Layout(settings, complete, family, tuple(sorted(kept)), initial, tuple(sorted(tensors.keys() - kept)))


def select(tensors: Mapping[str, Tensor], part: str, source: Path) -> str:
    """The prefix of the backbone among the names of a file; with several networks, that of `part`.

    Raises:
        UserError: there is no Vision Transformer, or it is not clear which one is meant.
    """
    prefixes = backbone_prefixes(tensors)
    if not prefixes:
        raise UserError(
            f"{source} has no Vision Transformer: it has no tensor patch_embed.proj.weight, but {min(tensors)}"
        )
    other = {"teacher": "student", "student": "teacher"}[part]
    chosen = [prefix for prefix in prefixes if other not in prefix.split(".")]
    if len(prefixes) > 1:
        chosen = [prefix for prefix in prefixes if part in prefix.split(".")]
    if len(chosen) != 1:
        raise UserError(
            f"{source} does not have one {part}: its Vision Transformers are {', '.join(prefixes)}; choose with the "
            f"option part = {other}, or save the tensors of one alone"
        )
    return chosen[0]


def _width(weight: Tensor, source: Path) -> int:
    if weight.ndim != 4 or weight.shape[1] != 3 or weight.shape[2] != weight.shape[3]:
        shape = "x".join(map(str, weight.shape))
        video = " (of video)" if weight.ndim == 5 else ""
        raise UserError(
            f"{source} is another architecture: its patch embedding is {shape}{video}, not width x 3 x side x side"
        )
    return weight.shape[0]


def _check_shapes(found: Mapping[str, Tensor], width: int, source: Path) -> None:
    """Refuse shapes from which no sizes can be read; all others are compared with the architecture in the end."""
    for name, tensor in found.items():
        if name in ("pos_embed", "cls_token", "register_tokens"):
            fits = tensor.ndim == 3 and tensor.shape[0] == 1 and tensor.shape[2] == width
        elif re.search(r"attn\.(query|key|value)\.|fc[12]\.weight|w12\.weight", name):
            fits = tensor.ndim == (1 if name.endswith("bias") else 2) and (width in tensor.shape)
        else:
            continue
        if not fits:
            shape = "x".join(map(str, tensor.shape))
            raise UserError(f"{source} is another architecture: {name} is {shape} beside a width of {width}")


def _sizes(found: Mapping[str, Tensor], source: Path) -> dict[str, object]:
    """The sizes that the shapes of the tensors show."""
    numbers = {int(match[1]) for name in found if (match := re.match(r"blocks\.(\d+)\.", name))}
    absent = set(range(max(numbers, default=0) + 1)) - numbers
    swiglu = "blocks.0.mlp.w12.weight" in found
    needed = ("pos_embed", "blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight")
    missing = [f"blocks.{number}" for number in sorted(absent)] or [name for name in needed if name not in found]
    if missing:
        raise UserError(f"{source} has no {missing[0]}: it is another architecture or not complete")
    width, _, _, patch_size = found["patch_embed.proj.weight"].shape
    expanded, reduced = found[needed[1]].shape[0], found.get("blocks.0.mlp.fc2.weight")
    if reduced is not None and 2 * reduced.shape[1] == expanded:
        raise UserError(
            f"{source} is another architecture: blocks.0.mlp.fc1 and fc2 are a gated unit of timm, whose activation "
            "the file does not say; SwiGLU is read from the files of DINOv2 and transformers"
        )
    return {
        "width": width,
        "depth": len(numbers),
        "patch_size": patch_size,
        "registers": found["register_tokens"].shape[1] if "register_tokens" in found else 0,
        "mlp_ratio": expanded / (2 if swiglu else 1) / width,
        "mlp": "swiglu" if swiglu else "gelu",
        "class_token": "cls_token" in found,
    }


class _Positions(NamedTuple):
    image_size: int
    extra: int
    """Entries before those of the patches."""


def _positions(found: Mapping[str, Tensor], family: str, image_size: object, source: Path) -> _Positions:
    """What the position table is for."""
    length, patch_size = found["pos_embed"].shape[1], found["patch_embed.proj.weight"].shape[-1]
    extras = {int("cls_token" in found)}
    if family == "timm":  # no_embed_class leaves out the entry of CLS; otherwise registers have entries too
        registers = found["register_tokens"].shape[1] if "register_tokens" in found else 0
        extras = {0, registers + int("cls_token" in found)}
    sides = {extra: round(max(length - extra, 0) ** 0.5) for extra in sorted(extras)}
    possible = [_Positions(s * patch_size, extra) for extra, s in sides.items() if s and s * s == length - extra]
    if not possible:
        raise UserError(f"{source} has a table of {length} positions, which is not that of a square image")
    fitting = [positions for positions in possible if positions.image_size == image_size] or possible
    if len(fitting) > 1:
        sizes = " or ".join(str(positions.image_size) for positions in fitting)
        raise UserError(f"{source} has {length} positions, for {sizes} pixels: give the option image_size")
    return fitting[0]


def _complete(
    found: Mapping[str, Tensor], settings: VitSettings, extra: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """All tensors of a backbone with these settings, and what was filled in so that it computes the same."""
    tensors, initial, width = dict(found), list[str](), settings.width
    scaled = any(re.search(r"\.ls[12]\.gamma$", name) for name in found)  # a file with some must have all
    biased = any(re.search(r"\.attn\.(qkv|query|key|value)\.bias$", name) for name in found)

    def fill(name: str, value: Tensor, words: str) -> None:
        if name not in tensors:
            tensors[name] = value
            if value.numel():
                initial.append(f"{name} = {words}")

    for block in (f"blocks.{number}." for number in range(settings.depth)):
        for kind in ("weight", "bias"):
            parts = [f"{block}attn.{part}.{kind}" for part in ("query", "key", "value")]
            if all(part in tensors for part in parts):
                tensors[f"{block}attn.qkv.{kind}"] = torch.cat([tensors.pop(part) for part in parts])
        if not biased:
            fill(f"{block}attn.qkv.bias", torch.zeros(3 * width), "0")
        for scale in () if scaled else ("ls1", "ls2"):
            fill(f"{block}{scale}.gamma", torch.ones(width), "1")
    fill("cls_token", torch.empty(1, 0, width), "")
    fill("register_tokens", torch.empty(1, 0, width), "")
    fill("mask_token", torch.zeros(1, width), "0")
    tensors["mask_token"] = tensors["mask_token"].reshape(1, -1)
    table, class_tokens = tensors["pos_embed"], int(settings.class_token)
    if extra > class_tokens:  # registers have no position here: it becomes part of them
        tensors["register_tokens"] = tensors["register_tokens"] + table[:, class_tokens:extra]
    if class_tokens > extra:
        table = torch.cat([torch.zeros(1, class_tokens, width), table], dim=1)
        initial.append("the position of cls_token = 0")
        extra = class_tokens
    tensors["pos_embed"] = torch.cat([table[:, :class_tokens], table[:, extra:]], dim=1)
    return tensors, tuple(initial)


def fold_normalization(
    tensors: Mapping[str, Tensor], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Tensor]:
    """The tensors for ImageNet-normalized images instead of images normalized by `mean` and `std`.

    Both are affine in the pixels, and so is the patch embedding, which takes up the difference: the backbone stays the
    same function of the pixels.
    """
    scale, shift = (values.view(1, 3, 1, 1) for values in renormalization(mean, std))
    weight, bias = (tensors[f"patch_embed.proj.{kind}"].double() for kind in ("weight", "bias"))
    return {
        **tensors,
        "patch_embed.proj.weight": (weight * scale).float(),
        "patch_embed.proj.bias": (bias + (weight * shift).sum((1, 2, 3))).float(),
    }


def renormalization(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Scale and shift (3,) that turn ImageNet-normalized pixels into pixels normalized by `mean` and `std`."""
    mean_3, std_3, our_mean_3, our_std_3 = (
        torch.tensor(values, dtype=torch.float64) for values in (mean, std, IMAGENET_MEAN, IMAGENET_STD)
    )
    return our_std_3 / std_3, (our_mean_3 - mean_3) / std_3
