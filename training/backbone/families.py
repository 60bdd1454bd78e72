"""Backbones of other projects: from the names and shapes in their files to the settings and tensors of ours.

Pure functions. Nothing is guessed: what a file leaves open (heads, family) must be given, and a tensor that is neither
part of the backbone nor known to be outside it is refused by name. Sources: the released code of each project
(vision_transformer.py of DINO, iBOT and DINOv2, util/pos_embed.py of MAE, models_mae.py of CropMAE, models_rsp.py of
RSP, timm/models/vision_transformer.py).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.settings import Settings, UserError
from training.backbone.vit import ARCHITECTURES, VitSettings

FamilyName = Literal["dino", "ibot", "dinov2", "dinov2_with_registers", "mae", "siam-mae", "timm", "vit", "vit_mae"]


class Family(NamedTuple):
    """What the files of a project have in common and do not say."""

    interpolation: Literal["antialias", "plain", "offset"]
    """How its code interpolates positions, see `VitSettings.interpolation`."""
    heads: Mapping[int, int] = {}
    """Heads of its published models by width."""


_SIZES = {192: 3, 384: 6, 768: 12, 1024: 16}
FAMILIES: dict[FamilyName, Family] = {
    "dino": Family("offset", _SIZES),
    "ibot": Family("offset", _SIZES),
    "dinov2": Family("offset", _SIZES | {1536: 24}),
    "dinov2_with_registers": Family("antialias", _SIZES | {1536: 24}),  # also T-CoRe
    "mae": Family("plain", {768: 12, 1024: 16, 1280: 16}),
    "siam-mae": Family("offset", _SIZES),  # SiamMAE, CropMAE and RSP, whose evaluation is that of DINO
    "timm": Family("antialias"),
    "vit": Family("plain"),  # of transformers, as is vit_mae
    "vit_mae": Family("plain"),
}


class BackboneOptions(Settings):
    """What a file of another project may leave open; an option that contradicts the file is refused."""

    part: Literal["teacher", "student"] = "teacher"
    """Which network of a file that has both."""
    family: FamilyName | None = None
    """Project of the file, which decides how positions are interpolated. Default: as the file shows."""
    heads: int | None = None
    """Attention heads. Default: as the file says, or as the published models of the `family` that is given."""
    image_size: int | None = None
    """Image side of the position table, pixels. Default: as the file says."""
    norm_eps: float | None = None
    """Epsilon of the LayerNorms. Default: as the file says, otherwise 1e-6."""
    mean: tuple[float, float, float] | None = None
    """Mean that is subtracted from RGB pixels in 0 to 1. Default: of the preprocessor file, otherwise of ImageNet."""
    std: tuple[float, float, float] | None = None
    """Standard deviation by which pixels are divided. Default: as for `mean`."""


class Layout(NamedTuple):
    """A backbone of a file under the names of `VisionTransformer`, and what became of the tensors of the file."""

    settings: VitSettings
    tensors: dict[str, Tensor]
    family: str
    mapped: tuple[str, ...]
    """Names in the file."""
    initial: tuple[str, ...]
    """Parameters that the file does not have, and their values."""
    ignored: tuple[str, ...]
    """Names in the file."""


_ANCHOR = re.compile(r"(?:^|\.)(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight$")
"""The tensor that every ViT has; what stands before it is the prefix of the backbone."""
_BLOCK = r"^(blocks\.\d+\.)"
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # chunks of DINOv2
        (r"^reg_token$", "register_tokens"),  # timm
        (r"^masked_embed$", "mask_token"),  # iBOT
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),  # the rest: transformers
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"^layernorm\.", "norm."),
        (rf"{_BLOCK}layernorm_before\.", r"\1norm1."),
        (rf"{_BLOCK}layernorm_after\.", r"\1norm2."),
        (rf"{_BLOCK}attention\.attention\.(query|key|value)\.", r"\1attn.\2."),
        (rf"{_BLOCK}attention\.output\.dense\.", r"\1attn.proj."),
        (rf"{_BLOCK}intermediate\.dense\.", r"\1mlp.fc1."),
        (rf"{_BLOCK}output\.dense\.", r"\1mlp.fc2."),
        (rf"{_BLOCK}layer_scale([12])\.lambda1$", r"\1ls\2.gamma"),
        (rf"{_BLOCK}mlp\.weights_in\.", r"\1mlp.w12."),
        (rf"{_BLOCK}mlp\.weights_out\.", r"\1mlp.w3."),
    )
)
_BACKBONE = re.compile(
    r"cls_token|pos_embed|register_tokens|mask_token|(patch_embed\.proj|norm)\.(weight|bias)"
    r"|blocks\.\d+\.((norm[12]|attn\.(qkv|query|key|value|proj)|mlp\.(fc1|fc2|w12|w3))\.(weight|bias)|ls[12]\.gamma)"
)
_OUTSIDE = re.compile(
    r"(decoder|head|fc\.|classifier|pooler|pre_logits|attn_pool|dino_head|ibot_head|to_prior|to_posterior)"
)
"""Starts of names beside a backbone that do not change its patch tokens."""
_FOREIGN = {
    r"rope|storage_tokens|periods": "rotary positions, as DINOv3: give a transformers folder of the type dinov3_vit, which "
    "can be evaluated but not trained here",
    r"rel_pos|relative_position": "relative positions, as BEiT",
    r"norm_pre|ln_pre": "a LayerNorm before the blocks, as CLIP",
    r"fc_norm": "average pooling before the final LayerNorm, so that its patch tokens are not normalized",
    r"dist_token": "a distillation token, as DeiT",
    r"[qk]_norm|[qv]_bias": "another attention",
    r"mlp\.": "another feed-forward form",
}
"""Other architectures by parts of their names."""


def select(names: Collection[str], part: str, source: Path) -> str:
    """The prefix of the backbone among the names of a file; with several networks, that of `part`.

    Raises:
        UserError: there is no Vision Transformer, or it is not clear which one is meant.
    """
    prefixes = sorted({name[: match.start()] for name in names if (match := _ANCHOR.search(name))})
    if not prefixes:
        first = f": it starts with {min(names)}" if names else ""
        raise UserError(f"{source} has no Vision Transformer (no tensor patch_embed.proj.weight){first}")
    chosen = [prefix for prefix in prefixes if part in prefix.split(".")] if len(prefixes) > 1 else prefixes
    if len(chosen) != 1:
        raise UserError(
            f"{source} has several Vision Transformers ({', '.join(prefixes)}), and not one of them is the {part}: "
            "save the tensors of one alone"
        )
    other = {"teacher": "student", "student": "teacher"}[part]
    if other in chosen[0].split("."):
        raise UserError(f"{source} has only the {other} ({chosen[0]}): ask for it with the option part = {other}")
    return f"{chosen[0]}." if chosen[0] else ""


def canonical(name: str) -> str:
    """The name in `VisionTransformer` of a tensor of any family, given without prefix; others are unchanged.

    Queries, keys and values may still be apart.
    """
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def read_layout(
    tensors: Mapping[str, Tensor], said: Mapping[str, object], options: BackboneOptions, source: Path
) -> Layout:
    """The backbone among the tensors of a file of another project.

    Args:
        tensors: all tensors of the file, by dotted names.
        said: settings that the file or a configuration beside it states, and perhaps its `family`.
        options: what the user says.
        source: the file or folder, for messages.

    Raises:
        UserError: another architecture (names the tensor), an incomplete one, a contradiction, or something is missing
            that the file does not say (names the option).
    """
    prefix = select(tensors.keys(), options.part, source)
    inside = {name: canonical(name.removeprefix(prefix)) for name in tensors if name.startswith(prefix)}
    decoder = any(name.startswith("decoder") for name in inside.values())
    mapped = {
        ours: name
        for name, ours in inside.items()
        if _BACKBONE.fullmatch(ours) and not (decoder and ours == "mask_token")  # MAE's belongs to the decoder
    }
    for name, ours in inside.items():
        if mapped.get(ours) != name and not _OUTSIDE.match(ours) and ours != "mask_token":
            reason = next((text for part, text in _FOREIGN.items() if re.search(part, ours)), "an unknown tensor")
            raise UserError(f"{source} is another architecture: {name} ({reason})")
    found = {ours: tensors[name].float() for ours, name in mapped.items()}
    family = _family(tensors.keys(), prefix, inside.values(), found, said, options, source)
    sizes, positions = _sizes(found, family, options.image_size, source)
    facts = {**sizes, **{key: value for key, value in said.items() if key in VitSettings.model_fields}}
    for key, value in sizes.items():
        if said.get(key, value) != value:
            raise UserError(f"{source} says {key} = {said[key]}, but its tensors have {value}")
    facts.setdefault("interpolation", FAMILIES[family].interpolation)
    facts["heads"] = _heads(facts, prefix, family, options, source)
    facts.setdefault("norm_eps", options.norm_eps or 1e-6)
    given = options.model_dump(include={"heads", "image_size", "norm_eps"}, exclude_none=True)
    refuse_contradiction(facts, given, source)
    shape = {key: facts[key] for key in ("width", "depth", "heads")}
    facts["architecture"] = next((name for name, known in ARCHITECTURES.items() if known == shape), None)
    try:
        settings = VitSettings.model_validate(facts)
    except ValueError as error:
        raise UserError(f"{source} does not describe a backbone: {error}") from error
    complete, initial = _complete(found, settings, positions)
    kept = set(mapped.values())
    return Layout(settings, complete, family, tuple(sorted(kept)), tuple(initial), tuple(sorted(tensors.keys() - kept)))


def refuse_contradiction(facts: Mapping[str, object], given: Mapping[str, object], source: Path) -> None:
    """Check that explicit options agree with a file.

    Raises:
        UserError: one does not.
    """
    for key, value in given.items():
        if key in facts and facts[key] != value:
            raise UserError(f"the option {key} = {value} contradicts {source}, which has {facts[key]}: leave it out")


def _family(
    names: Collection[str],
    prefix: str,
    inside: Collection[str],
    found: Mapping[str, Tensor],
    said: Mapping[str, object],
    options: BackboneOptions,
    source: Path,
) -> FamilyName:
    stated = {name for name in FAMILIES if name == said.get("family")}
    possible = stated or _possible_families(names, prefix, inside, found)
    if options.family is not None and options.family not in possible:
        raise UserError(
            f"the option family = {options.family} contradicts {source}, which is of {' or '.join(sorted(map(str, possible)))}"
        )
    chosen = [name for name in FAMILIES if name in possible and options.family in (None, name)]
    if len(chosen) > 1:
        width = found["patch_embed.proj.weight"].shape[0]
        published = {FAMILIES[name].heads[width] for name in chosen if width in FAMILIES[name].heads}
        heads = f"; published models of width {width} have {' or '.join(map(str, sorted(published)))} heads"
        raise UserError(
            f"{source} does not say which project it is of, nor its attention heads: give the option family "
            f"({', '.join(chosen)}), and heads for a model that is not a published one{heads if published else ''}"
        )
    return chosen[0]


def _possible_families(
    names: Collection[str], prefix: str, inside: Collection[str], found: Mapping[str, Tensor]
) -> set[FamilyName]:
    """The families whose code writes such names."""
    raw = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    decoder_blocks = [name for name in inside if name.startswith("decoder_blocks.")]
    if "register_tokens" in raw:
        return {"dinov2_with_registers"}
    if "reg_token" in raw or "cls_token" not in found or any(name.startswith("head.weight") for name in inside):
        return {"timm"}
    if decoder_blocks:
        plain = all(re.match(r"decoder_blocks\.\d+\.(norm[12]|attn|mlp)\.", name) for name in decoder_blocks)
        return {"mae"} if plain else {"siam-mae"}
    if "blocks.0.ls1.gamma" in found or re.search(r"blocks\.\d+\.\d+\.", " ".join(raw)):
        return {"dinov2"} if "mask_token" in raw else {"timm"}
    if "masked_embed" in raw:
        return {"ibot"}
    if any(re.search(r"head\.last_layer|dino_head", name) for name in names):
        return {"dino"}
    return {"dino", "ibot", "mae", "siam-mae", "timm"}


def _sizes(
    found: Mapping[str, Tensor], family: FamilyName, image_size: int | None, source: Path
) -> tuple[dict[str, object], int]:
    """The sizes that tensors show, and how many positions of the table are not those of patches."""
    weight = found["patch_embed.proj.weight"]
    if weight.ndim != 4 or weight.shape[1] != 3 or weight.shape[2] != weight.shape[3]:
        shape = "x".join(map(str, weight.shape))
        raise UserError(
            f"{source} is another architecture: its patch embedding is {shape}, where width x 3 x P x P is expected"
            + (" (of video)" if weight.ndim == 5 else "")
        )
    width, patch_size = weight.shape[0], weight.shape[-1]
    numbers = {int(match[1]) for name in found if (match := re.match(r"blocks\.(\d+)\.", name))}
    missing = set(range(max(numbers, default=0) + 1)) - numbers
    if missing:
        raise UserError(f"{source} has no block {min(missing)}: it is not complete")
    if "pos_embed" not in found:
        raise UserError(f"{source} has no position table (pos_embed): it is another architecture or not complete")
    swiglu = "blocks.0.mlp.w12.weight" in found
    expanded = found.get("blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight")
    if expanded is None:
        raise UserError(f"{source} has no feed-forward layer blocks.0.mlp.fc1.weight: it is not complete")
    registers = found["register_tokens"].shape[1] if "register_tokens" in found else 0
    class_token = "cls_token" in found
    # tables of timm may have no entry for CLS (no_embed_class), or entries for registers too
    extra = {0, int(class_token) + registers} if family == "timm" else {1}
    length = found["pos_embed"].shape[1]
    sides = {length - more: more for more in sorted(extra) if length > more and _root(length - more)}
    sizes = {_root(patches) * patch_size: more for patches, more in sides.items()}
    if image_size is not None and len(sizes) > 1:
        sizes = {size: more for size, more in sizes.items() if size == image_size}
    if not sizes:
        raise UserError(f"{source} has a table of {length} positions, which are not those of a square image")
    if len(sizes) > 1:
        raise UserError(
            f"{source} has {length} positions, which may be of images of {' or '.join(map(str, sizes))} pixels: give the "
            "option image_size"
        )
    [(size, more)] = sizes.items()
    hidden = expanded.shape[0] // (2 if swiglu else 1)
    facts: dict[str, object] = {
        "width": width,
        "depth": len(numbers),
        "patch_size": patch_size,
        "registers": registers,
        "image_size": size,
        "mlp_ratio": hidden / width,
        "mlp": "swiglu" if swiglu else "gelu",
        "class_token": class_token,
    }
    return facts, more


def _root(number: int) -> int:
    """The square root of a square number, otherwise 0."""
    root = round(number**0.5)
    return root if root * root == number else 0


def _heads(
    facts: Mapping[str, object], prefix: str, family: FamilyName, options: BackboneOptions, source: Path
) -> object:
    width, published = facts["width"], FAMILIES[family].heads
    if "heads" in facts or options.heads is not None:
        return facts.get("heads", options.heads)
    if options.family is not None and width in published:
        return published[int(str(width))]
    if family == "dinov2_with_registers" and prefix.startswith("teacher.backbone."):
        return max(int(str(width)) // 64, 1)  # all models of the authors' code
    known = f", published {family} models of this width have {published[int(str(width))]}" if width in published else ""
    raise UserError(
        f"{source} does not say how many attention heads its blocks of width {width} have: give the option heads{known}"
    )


def _complete(found: Mapping[str, Tensor], settings: VitSettings, more: int) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors of a backbone with these settings, and what was filled in."""
    tensors, initial, width = dict(found), [], settings.width

    def fill(name: str, value: Tensor, words: str) -> None:
        if name not in tensors:
            tensors[name] = value
            initial.append(f"{name} ({words})")

    for block in (f"blocks.{number}." for number in range(settings.depth)):
        for kind in ("weight", "bias"):
            parts = [f"{block}attn.{part}.{kind}" for part in ("query", "key", "value")]
            if all(part in tensors for part in parts):
                tensors[f"{block}attn.qkv.{kind}"] = torch.cat([tensors.pop(part) for part in parts])
        fill(f"{block}attn.qkv.bias", torch.zeros(3 * width), "0: it has no bias")
        for scale in ("ls1", "ls2"):
            fill(f"{block}{scale}.gamma", torch.ones(width), "1: it has no LayerScale")
    fill("cls_token", torch.empty(1, 0, width), "none")
    fill("register_tokens", torch.empty(1, 0, width), "none")
    fill("mask_token", torch.zeros(1, width), "0")
    tensors["mask_token"] = tensors["mask_token"].reshape(1, -1)
    table, class_tokens = tensors["pos_embed"], int(settings.class_token)
    if more > class_tokens:  # positions of registers, which have none here
        tensors["register_tokens"] = tensors["register_tokens"] + table[:, class_tokens:more]
    cls_position = table[:, :class_tokens] if more else torch.zeros(1, class_tokens, width)
    if class_tokens and not more:
        initial.append("the position of CLS (0: it has none)")
    tensors["pos_embed"] = torch.cat([cls_position, table[:, more:]], dim=1)
    return tensors, [line for line in initial if not line.endswith("(none)")]


def fold_normalization(
    tensors: Mapping[str, Tensor],
    of_file: tuple[Iterable[float], Iterable[float]],
    ours: tuple[Iterable[float], Iterable[float]],
) -> dict[str, Tensor]:
    """The tensors for images normalized by `ours` (mean, deviation) instead of `of_file`: the same function of pixels.

    Both are affine in the pixels, and so is the patch embedding, which takes up the difference.
    """
    (mean, std), (our_mean, our_std) = (
        [torch.tensor(tuple(values), dtype=torch.float64).view(1, 3, 1, 1) for values in pair]
        for pair in (of_file, ours)
    )
    weight, bias = (tensors[f"patch_embed.proj.{kind}"].double() for kind in ("weight", "bias"))
    return {
        **tensors,
        "patch_embed.proj.weight": (weight * our_std / std).float(),
        "patch_embed.proj.bias": (bias + (weight * (our_mean - mean) / std).sum((1, 2, 3))).float(),
    }
