"""Published protocols of label propagation: presets of the options, and the name under which a result is recorded.

Each preset holds the values of a project's published evaluation code. Options given on top of a preset win, and the
recorded name then lists them: `dino, changed: propagation.top_k=7`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from pipeline.settings import Settings, UserError

T_CORE: Final = "t-core"
Values = Mapping[str, Any]
"""Values of options by name, groups nested."""
SettingsT = TypeVar("SettingsT", bound=Settings)

MASK_PROTOCOLS: Mapping[str, Values] = {
    # The T-CoRe paper, section 4 and appendix B.4, and its released code: the defaults of the options.
    T_CORE: {},
    # https://github.com/facebookresearch/dino, eval_video_segmentation.py: defaults of the options and of read_frame.
    "dino": {
        "size": (480,),
        "side_multiple": 64,
        "rounding": "down",
        "resampling": "dino",
        "propagation": {
            "n_context": 7,  # n_last_frames
            "top_k": 5,  # topk
            "radius": 12.0,  # size_mask_neighborhood
            "neighborhood": "square",  # restrict_neighborhood
            "temperature": 0.1,  # label_propagation
            "limit_first_frame": True,  # label_propagation: one mask for all of the context
            "pad_context": False,  # eval_video_tracking_davis: the queue starts empty
        },
    },
    # https://github.com/facebookresearch/dinov3, notebooks/segmentation_tracking.ipynb: its constants and functions.
    "dinov3": {
        "size": (960,),  # SHORT_SIDE: size M of the paper, table 5
        "side_multiple": None,  # ResizeToMultiple: of the patch size, both sides
        "rounding": "up",
        "resampling": "dinov3",
        "propagation": {
            "n_context": 7,  # MAX_CONTEXT_LENGTH
            "top_k": 5,  # TOPK
            "radius": 12.0,  # NEIGHBORHOOD_SIZE
            "neighborhood": "circle",  # NEIGHBORHOOD_SHAPE
            "temperature": 0.2,  # TEMPERATURE
            "limit_first_frame": True,  # propagate: one mask for all of the context
            "pad_context": False,  # the queues start empty
        },
    },
}
"""The protocols of benchmarks with masks."""


def preset(kind: type[SettingsT], protocols: Mapping[str, Values], name: str, title: str) -> SettingsT:
    """The settings of a protocol.

    Raises:
        UserError: the benchmark `title` has no protocol of this name.
    """
    if name not in protocols:
        raise UserError(f"--protocol {name}: {title} has no such protocol; allowed: {', '.join(protocols)}")
    return kind.model_validate(protocols[name])


def overlaid(settings: SettingsT, given: Values) -> SettingsT:
    """The settings with some values, in groups too, replaced."""
    return type(settings).model_validate(_merge(settings.model_dump(), given))


def _merge(values: Values, given: Values) -> dict[str, Any]:
    merged = dict(values)
    for name, value in given.items():
        merged[name] = _merge(merged[name], value) if isinstance(value, Mapping) else value
    return merged


def changes(settings: Settings, base: Settings, prefix: str = "") -> Iterator[str]:
    """`name=value` of each setting that differs from `base`."""
    for name in type(settings).model_fields:
        value, usual = getattr(settings, name), getattr(base, name)
        if isinstance(value, Settings):
            yield from changes(value, usual, f"{prefix}{name}.")
        elif value != usual:
            yield f"{prefix}{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
