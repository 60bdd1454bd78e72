"""Projects whose backbones can be read: what their files have in common, and what an option must say."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.settings import Settings, UserError

FamilyName = Literal["dino", "ibot", "dinov2", "dinov2_with_registers", "mae", "siam-mae", "timm"]


class Family(NamedTuple):
    """What the files of a project do not say, from its released code."""

    interpolation: Literal["antialias", "plain", "offset"]
    """How it interpolates positions, see `VitSettings.interpolation`."""
    heads: Mapping[int, int] = {}
    """Heads of its published models by width."""


_SIZES = {192: 3, 384: 6, 768: 12, 1024: 16}
FAMILIES: dict[str, Family] = {
    "dino": Family("offset", _SIZES),  # vision_transformer.py, interpolate_pos_encoding
    "ibot": Family("offset", _SIZES),  # models/vision_transformer.py
    "dinov2": Family("offset", _SIZES | {1536: 24}),  # dinov2/models/vision_transformer.py
    "dinov2_with_registers": Family("antialias", _SIZES | {1536: 24}),  # hub/backbones.py; also T-CoRe
    "mae": Family("plain", {768: 12, 1024: 16, 1280: 16}),  # util/pos_embed.py
    "siam-mae": Family("offset", _SIZES),  # CropMAE, SiamMAE, RSP: downstreams/propagation/src/models_mae.py
    "timm": Family("antialias"),  # timm/layers/pos_embed.py
}


Part = Literal["teacher", "student"]


class BackboneOptions(Settings):
    """What a file of another project may leave open; an option that contradicts the file is refused."""

    part: Part | None = None
    """Which network of a file that has both. Default: the teacher."""
    family: FamilyName | None = None
    """Project of the file, which decides how positions are interpolated. Default: as the file shows."""
    heads: int | None = Field(None, ge=1, le=2**16)
    """Attention heads. Default: as the file says, or as the published models of the `family` that is given."""
    image_size: int | None = Field(None, ge=1, le=2**16)
    """Image side of the position table, pixels. Default: as the file says."""
    norm_eps: float | None = Field(None, gt=0, le=1)
    """Epsilon of the LayerNorms. Default: as the file says, otherwise 1e-6."""
    mean: tuple[float, ...] = ()
    """Mean that is subtracted from RGB pixels in 0 to 1. Default: of the preprocessor file, otherwise of ImageNet."""
    std: tuple[float, ...] = ()
    """Standard deviation by which pixels are divided. Default: as for `mean`."""

    @field_validator("mean", "std")
    @classmethod
    def _of_red_green_and_blue(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if values and (len(values) != 3 or (info.field_name == "std" and min(values) <= 0)):
            raise ValueError("must be three numbers, for red, green and blue; a standard deviation is positive")
        return values

    @model_validator(mode="after")
    def _of_one_normalization(self) -> "BackboneOptions":
        if bool(self.mean) != bool(self.std):
            raise ValueError("mean and std are one normalization: give both, or neither")
        return self

    def given(self) -> dict[str, object]:
        """The options that are given."""
        return self.model_dump(exclude_defaults=True)


class Facts(NamedTuple):
    """What was read of a source for each of `BackboneOptions`."""

    part: str | None
    """None if its network is not called teacher or student."""
    family: str
    heads: int
    image_size: int
    norm_eps: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def refuse_contradiction(facts: Facts, options: BackboneOptions, source: Path) -> None:
    """Check that the options that are given agree with what was read.

    Raises:
        UserError: one does not.
    """
    for key, value in options.given().items():
        read = getattr(facts, key)
        if read != value:
            which = "which does not say it" if read is None else f"which has {read}"
            raise UserError(f"the option {key} = {value} contradicts {source}, {which}: leave it out")


def possible_families(names: Collection[str], prefix: str) -> set[FamilyName]:
    """The families whose code writes such a file.

    Args:
        names: of the tensors of the backbone and what stands under the same prefix, without the prefix.
        prefix: such as "teacher.backbone.".
    """
    decoder = [name for name in names if name.startswith("decoder_blocks.")]
    if "register_tokens" in names:
        return {"dinov2_with_registers"}
    if not {"reg_token", "head.weight"}.isdisjoint(names) or "cls_token" not in names:
        return {"timm"}
    if decoder:
        own_attention = r"decoder_blocks\.\d+\.(norm[12]|attn|mlp)\."  # those of CropMAE and RSP attend across frames
        return {"mae"} if all(re.match(own_attention, name) for name in decoder) else {"siam-mae"}
    if any(name.endswith(".ls1.gamma") for name in names):
        return {"dinov2"} if "mask_token" in names else {"timm"}
    if "masked_embed" in names:
        return {"ibot"}
    if not {"teacher", "student"}.isdisjoint(prefix.split(".")):
        return {"dino"}
    return {"dino", "ibot", "mae", "siam-mae", "timm"}


def choose_family(possible: Collection[FamilyName], options: BackboneOptions, width: int, source: Path) -> FamilyName:
    """The family that an option or the file itself says.

    Raises:
        UserError: they contradict each other, or neither says it.
    """
    if options.family is not None and options.family not in possible:
        raise UserError(
            f"the option family = {options.family} contradicts {source}, whose tensors are those of "
            f"{' or '.join(sorted(possible))}: leave it out"
        )
    if options.family is not None:
        return options.family
    if len(possible) == 1:
        return next(iter(possible))
    heads = "" if options.heads else f", nor how many attention heads its blocks of width {width} have"
    raise UserError(
        f"{source} does not say which project it is of{heads}: give the option family ({', '.join(sorted(possible))}), "
        "and heads if it is not one of its published models"
    )


def choose_heads(said: object, options: BackboneOptions, family: str, width: int, source: Path) -> object:
    """The number of heads that the file, an option, or the published models of the family given as an option say.

    Raises:
        UserError: none does, or the option does not divide the width.
    """
    if said is not None:
        return said
    if options.heads is not None:
        if width % options.heads:
            raise UserError(f"the option heads = {options.heads} must divide the width {width} of {source}")
        return options.heads
    published = FAMILIES[family].heads.get(width) if family in FAMILIES else None
    if published and options.family is not None:
        return published
    known = f" (published models of {family} have {published})" if published else ""
    raise UserError(
        f"{source} does not say how many attention heads its blocks of width {width} have: give the option heads{known}"
    )
