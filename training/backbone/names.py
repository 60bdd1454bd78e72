"""Names of tensors in the files of other projects, and the same tensors in our `VisionTransformer`."""

import re
from collections.abc import Collection

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
        (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
        (r"^layernorm\.", "norm."),
        (rf"{_BLOCK}layernorm_before\.", r"\1norm1."),
        (rf"{_BLOCK}layernorm_after\.", r"\1norm2."),
        (rf"{_BLOCK}attention\.attention\.(query|key|value)\.", r"\1attn.\2."),
        (rf"{_BLOCK}attention\.output\.dense\.", r"\1attn.proj."),
        (rf"{_BLOCK}attention\.q_proj\.", r"\1attn.query."),  # in memory, transformers 5 has other names
        (rf"{_BLOCK}attention\.k_proj\.", r"\1attn.key."),
        (rf"{_BLOCK}attention\.v_proj\.", r"\1attn.value."),
        (rf"{_BLOCK}attention\.o_proj\.", r"\1attn.proj."),
        (rf"{_BLOCK}intermediate\.dense\.", r"\1mlp.fc1."),
        (rf"{_BLOCK}output\.dense\.", r"\1mlp.fc2."),
        (rf"{_BLOCK}layer_scale([12])\.lambda1$", r"\1ls\2.gamma"),
        (rf"{_BLOCK}mlp\.weights_in\.", r"\1mlp.w12."),
        (rf"{_BLOCK}mlp\.(?:weights_out|down_proj)\.", r"\1mlp.w3."),
        (rf"{_BLOCK}mlp\.(gate|up)_proj\.", r"\1mlp.\2."),
    )
)
_BACKBONE = re.compile(
    r"cls_token|pos_embed|register_tokens|mask_token|(patch_embed\.proj|norm)\.(weight|bias)"
    r"|blocks\.\d+\.(norm[12]|attn\.(qkv|query|key|value|proj)|mlp\.(fc1|fc2|w12|w3|gate|up))\.(weight|bias)"
    r"|blocks\.\d+\.ls[12]\.gamma"
)
_OUTSIDE = re.compile(r"mask_token|decoder|head|fc\.|classifier|pooler|pre_logits|to_prior|to_posterior")
"""Starts of names beside a backbone that do not change its patch tokens; MAE's mask token belongs to its decoder."""
_FOREIGN = {
    r"rope|storage_tokens": "rotary positions, as DINOv3: a transformers folder of the type dinov3_vit can be "
    "evaluated, but not trained",
    r"rel_pos|relative_position": "relative positions, as BEiT",
    r"norm_pre|ln_pre": "a LayerNorm before the blocks, as CLIP",
    r"fc_norm": "average pooling before the final LayerNorm, so that its patch tokens are not normalized",
    r"attn_pool": "attention pooling, as SigLIP, whose activation the file does not say",
    r"dist_token": "a distillation token, as DeiT",
    r"[qk]_norm|[qv]_bias": "another attention",
    r"mlp\.": "another feed-forward form",
}
"""Other architectures by parts of their names."""


def backbone_prefixes(names: Collection[str]) -> list[str]:
    """The prefixes of the Vision Transformers among the names of a file, such as "teacher.backbone." or ""."""
    starts = {name[: match.start()] for name in names if (match := _ANCHOR.search(name))}
    return sorted(f"{start}." if start else "" for start in starts)


def our_name(name: str) -> str:
    """The name in `VisionTransformer` of a tensor of any family, given without prefix; others are unchanged.

    Queries, keys and values, and the halves of a gated unit, may still be apart.
    """
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def is_backbone(name: str, with_decoder: bool) -> bool:
    """Whether one of `our_name` is part of a backbone."""
    return bool(_BACKBONE.fullmatch(name)) and not (with_decoder and name == "mask_token")


def why_foreign(name: str) -> str | None:
    """Why a tensor that is no part of our backbone makes it another one; None if it does not."""
    if _OUTSIDE.match(name):
        return None
    return next((reason for pattern, reason in _FOREIGN.items() if re.search(pattern, name)), "an unknown tensor")
