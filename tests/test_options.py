"""Every option has a help text, and every number among them a range, which the parser holds infinity to as well."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import benchmarks
import evaluation
import indexing
import pipeline
import training
from pipeline.presets import Preset
from pipeline.record import shuffle_rank
from pipeline.sampling.philox import Stream, uniforms
from pipeline.settings import Command, Settings, UserError, _describe, parse_command
from pipeline.shards.command import ShardsCommand
from training.backbone.vit import VitSettings, random_backbone
from training.pretrain import PretrainCommand
from training.step import random_seed

PACKAGES: tuple[ModuleType, ...] = (pipeline, indexing, training, evaluation, benchmarks)
FARTHEST = (-(10**30), 10**30, float("inf"), float("-inf"), float("nan"))


def classes() -> list[type[BaseModel]]:
    """All settings and commands of the project."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in ("pipeline.verify", "pipeline.preview", "benchmarks.demo_data"):
        importlib.import_module(f"{name}.__main__")
    result: list[type[BaseModel]] = [Settings, Command]
    for base in result:
        result.extend(derived for derived in base.__subclasses__() if derived not in result)
    names = tuple(f"{package.__name__}." for package in PACKAGES)
    return [cls for cls in result[2:] if cls.__module__.startswith(names)]


def kinds(annotation: Any) -> Iterator[Any]:
    """The plain types that make up an option's type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType, tuple):
        for member in get_args(annotation):
            yield from kinds(member)
    else:
        yield annotation


def with_values(field: FieldInfo, value: float) -> Iterator[Any]:
    """The option with a number at each of its indices."""
    if get_origin(field.annotation) is not tuple:
        yield value
    elif Ellipsis in get_args(field.annotation):
        yield (value,)
    else:
        for index in range(len(field.default)):
            yield (*field.default[:index], value, *field.default[index + 1 :])


CLASSES = classes()
NUMBERS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, field in cls.model_fields.items()
    if {int, float} & set(kinds(field.annotation))
]


def is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Settings)


def test_every_option_has_a_help_text() -> None:
    options = {f"{cls.__name__}.{name}": field for cls in CLASSES for name, field in cls.model_fields.items()}
    # `--help` shows the docstring of a group of options
    assert [name for name, field in options.items() if not (field.description or is_group(field))] == []


def error_of(cls: type[BaseModel], name: str, value: Any) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        cls.model_validate({name: value})
    return refused.value


def test_there_are_many() -> None:
    assert len(NUMBERS) > 150
    assert {"seed", "deadline_s", "blur", "thresholds", "size"} <= {number.values[1] for number in NUMBERS}


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
def test_no_number_is_without_bounds(cls: type[BaseModel], name: str) -> None:
    field = cls.model_fields[name]
    for value in FARTHEST:
        for given in with_values(field, value):
            problems = error_of(cls, name, given).errors()
            own = [p for p in problems if p["loc"][:1] == (name,) or (not p["loc"] and name in p["msg"])]
            assert own, f"{name} = {given} is taken"


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
def test_bounds_themselves_are_taken_and_what_is_beyond_is_named(cls: type[BaseModel], name: str) -> None:
    field = cls.model_fields[name]
    names = ("ge", "gt", "le", "lt")
    bounds = {bound: getattr(c, bound) for c in field.metadata for bound in names if hasattr(c, bound)}
    option: Any = Annotated[(field.annotation, *field.metadata)] if bounds else None
    for bound, limit in bounds.items():
        step = 1 if bound in ("le", "gt") else -1
        beyond = limit if bound in ("gt", "lt") else limit + step
        if bound in ("ge", "le"):
            assert TypeAdapter(option).validate_python(limit) == limit
        message = _describe(cls, error_of(cls, name, beyond), Preset({}, {}))
        for part in (f"{name} = {beyond}: must be ", "at least " if "ge" in bounds else "more than ", str(limit)):
            assert part in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--frames.deadline_s inf", "frames.deadline_s = inf: must be more than 0 and at most 604800"),
        ("--frames.deadline_s nan", "frames.deadline_s = nan: must be more than 0 and at most 604800"),
        (
            "--frames.max_pixels 10000000000",
            "frames.max_pixels = 10000000000: must be at least 1 and at most 2147483647",
        ),
        (f"--seed {2**64}", f"seed = {2**64}: must be at least 0 and less than {2**64}"),
        (
            "--samples_per_shard 10000000000",
            "samples_per_shard = 10000000000: must be at least 1 and at most 1000000000",
        ),
        ("--frames.min_frames 3000", "min_frames = 3000 is more than max_frames = 2000"),
    ],
)
def test_a_number_out_of_range_ends_in_a_sentence(words: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        parse_command(ShardsCommand, ["--data", "x", "--out", "y", *words.split()])
    assert expected in str(error.value)


def test_a_number_of_a_list_is_named_by_its_index() -> None:
    with pytest.raises(UserError, match=r"data\.views\.blur\.1 = 1\.5: must be at least 0 and at most 1"):
        parse_command(PretrainCommand, ["--data.shards", "x", "--out", "y", "--data.views.blur", "1,1.5,0"])


def test_the_largest_seed_is_taken_by_all_generators() -> None:
    largest = 2**64 - 1
    assert shuffle_rank("key", largest) != shuffle_rank("key", largest - 1)
    draws = [uniforms(seed, Stream.MASK_SIZES, 0, np.arange(2), 4) for seed in (largest, largest - 1)]
    assert (draws[0] != draws[1]).any()
    assert random_seed(largest, step=1, rank=1) < 2**64
    small = VitSettings(width=8, depth=1, heads=1, image_size=16)
    weights = [random_backbone(small, seed).patch_embed.proj.weight for seed in (largest, largest - 1)]
    assert not torch.equal(*weights)
