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

from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.families import (
    FAMILIES,
    BackboneOptions,
    choose_family,
    choose_heads,
    possible_families,
)
from training.backbone.names import backbone_prefixes, is_backbone, our_name, why_foreign
from training.backbone.vit import ARCHITECTURES, VitSettings

_AUTHORS = "teacher.backbone."
_AUTHORS_HEAD = "teacher.dino_head."
"""The projection head of T-CoRe's released code, which trains only ViT-S and ViT-B; ours has another name."""
_AUTHORS_HEADS = {384: 6, 768: 12}
"""Attention heads of its published models by width; their files do not say it."""
_PARTS = {"qkv": ("query", "key", "value"), "w12": ("gate", "up")}
"""Linear layers of ours by the layers that other code has in their place."""


class Layout(NamedTuple):
    """A backbone of a file under the names of `VisionTransformer`, and what became of the tensors of the file."""

    settings: VitSettings
    tensors: dict[str, Tensor]
    family: str
    part: str | None
    """teacher or student, if the file calls the network so."""
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
        said: what a configuration beside the file states: settings of `VitSettings`, `family`, `no_embed_class`, and
            whether there is `qkv_bias` and LayerScale (`scaled`).
        options: what the user says.
        source: the file or folder, for messages.

    Raises:
        UserError: another architecture (names the tensor), an incomplete one, a contradiction, or something is missing
            that the file does not say (names the option).
    """
    prefix = select(tensors, options.part or "teacher", source)
    names = {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    with_decoder = any(name.startswith("decoder") for name in names.values())
    mapped: dict[str, str] = {}
    for name, bare in names.items():
        ours = our_name(bare)
        if is_backbone(ours, with_decoder):
            if ours in mapped:
                raise UserError(f"{source} is another architecture: {name} and {mapped[ours]} are the same tensor")
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
    found = _joined(found)
    facts = _sizes(found, source)
    positions = _positions(found, family, said, options.image_size, source)
    facts["image_size"] = positions.image_size
    for key, value in facts.items():
        if not _agree(key, said.get(key, value), value, width):
            raise UserError(f"{source} says {key} = {said[key]}, but its tensors have {value}")
    facts = {**said, **facts}
    if prefix == _AUTHORS and any(name.startswith(_AUTHORS_HEAD) for name in tensors) and options.heads is None:
        facts.setdefault("heads", _AUTHORS_HEADS.get(width))
    facts["heads"] = choose_heads(facts.get("heads"), options, family, width, source)
    facts.setdefault("norm_eps", options.norm_eps or 1e-6)
    if not facts["scaled"]:
        facts["layer_scale"] = 1.0
    if family in FAMILIES:
        facts.setdefault("interpolation", FAMILIES[family].interpolation)
    shape = {key: facts[key] for key in ("width", "depth", "heads")}
    facts["architecture"] = next((name for name, known in ARCHITECTURES.items() if known == shape), None)
    try:
        settings = VitSettings.model_validate({key: facts[key] for key in VitSettings.model_fields if key in facts})
    except ValidationError as error:
        raise UserError(f"{source} does not describe a backbone: {_problem(error)}") from error
    complete, initial = _complete(found, settings, positions.extra)
    kept = set(mapped.values())
    part = next((part for part in ("teacher", "student") if part in prefix.split(".")), None)
    return Layout(settings, complete, family, part, tuple(sorted(kept)), initial, tuple(sorted(tensors.keys() - kept)))


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
    has_other = [prefix for prefix in prefixes if other in prefix.split(".")]
    chosen = [prefix for prefix in prefixes if other not in prefix.split(".")]
    if len(prefixes) > 1:
        chosen = [prefix for prefix in prefixes if part in prefix.split(".")]
    if len(chosen) != 1:
        choose = f"choose with the option part = {other}, or " if len(has_other) == 1 else ""
        raise UserError(
            f"{source} does not have one {part}: its Vision Transformers are {', '.join(prefixes)}; {choose}save the "
            "tensors of one alone"
        )
    return chosen[0]


def _agree(key: str, stated: object, shown: object, width: int) -> bool:
    """Whether a configuration and the tensors say the same; `mlp_ratio` may be rounded to a whole hidden width."""
    if key != "mlp_ratio":
        return stated == shown
    return isinstance(stated, int | float) and isinstance(shown, float) and abs(stated - shown) * width < 1


def _problem(error: ValidationError) -> str:
    """The first problem with settings, in one sentence."""
    first = error.errors()[0]
    named = f"{first['loc'][0]} = {first['input']}: " if first["loc"] else ""
    return named + first["msg"].removeprefix("Value error, ")


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
        elif re.search(r"(query|key|value|gate|up)\.bias", name):
            fits = tensor.ndim == 1
        elif re.search(r"(query|key|value|gate|up|fc1|fc2|w12)\.weight", name):
            fits = tensor.ndim == 2 and tensor.shape[0 if "fc2" in name else 1] == width
        else:
            continue
        if not fits:
            shape = "x".join(map(str, tensor.shape))
            raise UserError(f"{source} is another architecture: {name} is {shape} beside a width of {width}")


def _joined(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the parts of `_PARTS` joined wherever all of them are there."""
    joined = dict(found)
    for name in found:
        for whole, parts in _PARTS.items():
            layer, first, kind = name.rpartition(f".{parts[0]}.")
            names = [f"{layer}.{part}.{kind}" for part in parts]
            if first and all(part in joined for part in names):
                joined[f"{layer}.{whole}.{kind}"] = torch.cat([joined.pop(part) for part in names])
    return joined


def _sizes(found: Mapping[str, Tensor], source: Path) -> dict[str, object]:
    """The sizes that the shapes of the tensors show."""
    numbers = {int(match[1]) for name in found if (match := re.match(r"blocks\.(\d+)\.", name))}
    absent = [number for number in range(max(len(numbers), 1)) if number not in numbers]
    swiglu = "blocks.0.mlp.w12.weight" in found
    needed = ("pos_embed", "blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight")
    missing = [f"blocks.{number}" for number in absent] or [name for name in needed if name not in found]
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
        "qkv_bias": "blocks.0.attn.qkv.bias" in found,
        "scaled": "blocks.0.ls1.gamma" in found,
    }


class _Positions(NamedTuple):
    image_size: int
    extra: int
    """Entries before those of the patches."""


def _positions(
    found: Mapping[str, Tensor], family: str, said: Mapping[str, object], image_size: int | None, source: Path
) -> _Positions:
    """What the position table is for; `image_size` is that of the options."""
    length, patch_size = found["pos_embed"].shape[1], found["patch_embed.proj.weight"].shape[-1]
    extras = {int("cls_token" in found)}
    if family == "timm":  # no_embed_class leaves out the entry of CLS; otherwise registers have entries too
        registers = found["register_tokens"].shape[1] if "register_tokens" in found else 0
        without, with_all = 0, registers + int("cls_token" in found)
        stated = said.get("no_embed_class")
        extras = {without, with_all} if stated is None else {without if stated else with_all}
    sides = {extra: round(max(length - extra, 0) ** 0.5) for extra in sorted(extras)}
    possible = [_Positions(s * patch_size, extra) for extra, s in sides.items() if s and s * s == length - extra]
    if not possible:
        counted = f", and {' or '.join(map(str, sorted(extras)))} more" if any(extras) else ""
        raise UserError(f"{source} has a table of {length} positions, which is not that of a square image{counted}")
    wanted = said.get("image_size", image_size)
    fitting = [positions for positions in possible if positions.image_size == wanted] or possible
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
