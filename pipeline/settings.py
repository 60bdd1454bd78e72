"""Typed settings of all programs, from YAML presets and dotted options, with errors in plain sentences.

Each component defines its `Settings`; a program collects them in a `Command` and calls `run_command`.
"""

import argparse
import difflib
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline import startup
from pipeline.boundary import describe_fault, lasting_output
from pipeline.errors import UserError as UserError
from pipeline.extras import missing_extra, running_program
from pipeline.presets import Preset, load_preset

CommandT = TypeVar("CommandT", bound="Command")

Seed = Annotated[int, Field(ge=0, lt=2**64)]
"""Seed of all generators: Philox, blake2b and torch take 64 bits."""
Share = Annotated[float, Field(ge=0, le=1)]
COUNT_LIMIT = 10**9
"""Upper bound of counts without a tighter one; sums and products of a few fit in 64 bits."""
FACTOR_LIMIT = 10**6
"""Upper bound of weights, rates and factors without a tighter one."""
BATCH_LIMIT = 2**20
"""Upper bound of batch sizes of models and searches."""
THREAD_LIMIT = 1024
"""Upper bound of the threads and processes of a machine, and of batches prepared ahead."""
WORKER_LIMIT = 2**16
"""Upper bound of the processes of a cluster."""


def _takes(annotation: object, *types: type) -> bool:
    """Whether an annotation contains one of the types."""
    return annotation in types or any(_takes(part, *types) for part in get_args(annotation))


def _plain_number(cls: type[BaseModel], value: object, info: ValidationInfo) -> object:
    """Refuse `true` and `.inf` in place of a number; pydantic would read them as 1 and infinity."""
    annotation = cls.model_fields[str(info.field_name)].annotation
    if _takes(annotation, int, float):
        for member in value if isinstance(value, list) else [value]:
            if isinstance(member, bool) and not _takes(annotation, bool):
                raise ValueError("must be a number; YAML reads yes and on as true, no and off as false")
            if isinstance(member, float) and not math.isfinite(member):
                raise ValueError("must be a finite number, not .inf or .nan")
    return value


def _path_with_a_name(cls: type[BaseModel], value: object, info: ValidationInfo) -> object:
    """Refuse an empty path, which would be the current folder, as of an option whose variable is not set."""
    members = value if isinstance(value, list | tuple) else [value]
    if "" in members and _takes(cls.model_fields[str(info.field_name)].annotation, Path):
        raise ValueError("is empty: give a path, or leave the option out")
    return value


class Settings(BaseModel):
    """Base of a component's settings: immutable, without unknown keys; docstrings of fields are shown by `--help`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    _plain_numbers = field_validator("*", mode="before")(_plain_number)
    _paths_with_names = field_validator("*", mode="before")(_path_with_a_name)


class Command(BaseSettings):
    """Base of a program's settings: the command line overrides the preset `--config`, which overrides the defaults."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, case_sensitive=True
    )
    program: ClassVar[str]
    """Command that starts the program, shown in `--help`."""

    config: Path | None = None
    """YAML file with any of the options below, nested by their dots; FILE:NAME is one of its `variants`."""
    _plain_numbers = field_validator("*", mode="before")(_plain_number)
    _paths_with_names = field_validator("*", mode="before")(_path_with_a_name)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ignore the environment: a stray variable must not change a run."""
        return (init_settings,)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        for unknown in re.findall(r"--[^\s=]+", message) if "unrecognized" in message else ():
            close = difflib.get_close_matches(unknown, options, n=3)
            message = f"unknown option {unknown}" + (f"; did you mean {' or '.join(close)}?" if close else "")
        print(f"error: {message} ({self.prog} --help lists all options)", file=sys.stderr)
        raise SystemExit(2)


def _allowed_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


_RANGE = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
"""pydantic's types of errors for a number that is out of range."""


def _range(model: type[BaseModel], location: Sequence[int | str]) -> str:
    """The range of the number at a location: "at least 1 and at most 100"."""
    annotation: Any = model
    constraints: list[Any] = []
    for part in location:
        if isinstance(part, str) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields[part]
            annotation, constraints = field.annotation, field.metadata
        elif isinstance(part, int) and get_origin(annotation) is tuple:
            members = [member for member in get_args(annotation) if member is not Ellipsis]
            annotation, *details = get_args(members[min(part, len(members) - 1)]) or (members[0],)
            constraints = [constraint for detail in details for constraint in detail.metadata]
    stated = [
        text.format(getattr(c, bound)) for c in constraints for bound, text in _RANGE.items() if hasattr(c, bound)
    ]
    return " and ".join(stated)


def _hint(problem: Mapping[str, Any]) -> str:
    """What to write instead, if YAML has probably read something else than was meant."""
    value, kind = problem["input"], problem["type"]
    if kind == "model_type":
        return "must be a group of options, nested below it" + ("; there are none" if value is None else "")
    if value is None:
        return "no value after the colon: give one or remove the line"
    if isinstance(value, bool) and kind in ("string_type", "path_type", "literal_error"):
        return "YAML reads yes, no, on and off without quotes as true and false: put the text in quotes"
    if kind in ("string_type", "path_type") and not isinstance(value, list | dict):
        return "put it in quotes if it is text"
    if kind == "int_parsing" and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value):
        return f"write it without an exponent, as {float(value):.0f}"
    return ""


def _describe(model: type[BaseModel], error: ValidationError, preset: Preset) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            lines.append(f"--{key} is required")
            continue
        if problem["type"] == "extra_forbidden":
            message = f"unknown key {key}; allowed here: {', '.join(_allowed_keys(model, problem['loc'][:-1]))}"
        elif problem["type"] in _OUT_OF_RANGE and (allowed := _range(model, problem["loc"])):
            message = f"{key} = {problem['input']}: must be {allowed}"
        else:
            message = re.sub(r"^Value error, | for <class .*>$", "", problem["msg"])
            if hint := _hint(problem):
                message = hint if problem["type"] == "model_type" else f"{message}; {hint}"
            if key and not isinstance(problem["input"], dict):  # a group's message names the option itself
                message = f"{key} = {problem['input']!r}: {message}"
        file = preset.file_of(problem["loc"], problem["input"])
        lines.append(f"{file}: {message}" if file else message)
    return "; ".join(lines)


_PLAIN_TYPES = {"float": "NUMBER", "int": "NUMBER", "str": "TEXT", "Path": "PATH"}


def _plain_help(parser: argparse.ArgumentParser) -> None:
    """Replace Python's names of types in `--help` by plain words."""
    for action in parser._actions:
        if isinstance(action.metavar, str) and "[" in action.metavar:
            action.metavar = "A,B,..."
        elif isinstance(action.metavar, str):
            words = re.findall(r"[^{},]+", action.metavar)
            kinds = list(dict.fromkeys(_PLAIN_TYPES.get(word, word) for word in words if word != "None"))
            action.metavar = kinds[0] if len(kinds) == 1 else "{" + ",".join(kinds) + "}"
        if action.help:
            action.help = action.help.replace(" (default: None)", "")
    required = [f"{a.option_strings[0]} {a.metavar}" for a in parser._actions if "(required)" in (a.help or "")]
    positional = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    parser.usage = " ".join([parser.prog, *positional, *required, "[--option VALUE ...]"])


def _options(model: type[BaseModel], prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """All options of `model` and their types."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _options(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, annotation


def _normalize(model: type[BaseModel], arguments: Sequence[str]) -> list[str]:
    """Rewrite forms that pydantic-settings may not accept: `--list a,b`, `--flag true`, `--two-words`, `--k`."""
    types = dict(_options(model))
    known = {name.replace("_", "-"): name for name in types if "_" in name}
    known |= {f"--no-{name[2:]}": f"--no-{known[name][2:]}" for name in known}
    known |= {name: name[1:] for name in types if len(name) == len("--k")}  # pydantic-settings knows -k only
    words = iter(arguments)
    rewritten: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        name = known.get(name, name)
        word = name + equals + value
        if get_origin(types.get(name)) is tuple:
            value = value if equals else next(words, "")
            members = value.split(",") if value or _takes(types[name], Path) else []
            rewritten += [name, value if value.startswith("[") else json.dumps(members)]
        elif equals and types.get(name) is bool and value.lower() in ("true", "false"):
            rewritten.append(name if value.lower() == "true" else f"--no-{name[2:]}")
        elif rewritten and types.get(rewritten[-1]) is bool and word.lower() in ("true", "false"):
            rewritten[-1] = rewritten[-1] if word.lower() == "true" else f"--no-{rewritten[-1][2:]}"
        else:
            rewritten.append(word)
    return rewritten


def parse_command(command: type[CommandT], argv: Sequence[str] | None = None) -> CommandT:
    """Build `command` from the command line (`argv`, default `sys.argv[1:]`) and its `--config` file.

    Raises:
        UserError: names an unknown key or a bad value, and what is allowed.
    """
    arguments = _normalize(command, sys.argv[1:] if argv is None else argv)
    config_parser = _Parser(prog=command.program, add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path)
    preset_path = config_parser.parse_known_args(arguments)[0].config
    preset = load_preset(preset_path) if preset_path else Preset({}, {})
    if "config" in preset.values:
        raise UserError(f"{preset.files['config']}: a preset names the one that it builds on as `base`, not `config`")
    parser = _Parser(prog=command.program, description=command.__doc__, allow_abbrev=False)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            command, root_parser=parser, cli_implicit_flags=True, cli_avoid_json=True
        )
        _plain_help(parser)
        source(args=arguments)
        return command(_cli_settings_source=source, **preset.values)  # the command line wins over the preset
    except ValidationError as error:
        raise UserError(_describe(command, error, preset)) from error
    except SettingsError as error:
        raise UserError(f"an option's value is not a valid list: {error.__cause__ or error}") from error


def run_command(command: type[CommandT], main: Callable[[CommandT], int | None]) -> NoReturn:
    """Parse the command line, run `main` and exit: the entry point of every program.

    Every error is reported in one line: a user's error, a full disk, Ctrl-C, or a bug. A closed or full output stream
    does not end the program.
    """
    with lasting_output():
        raise SystemExit(_status(command, main))


def _status(command: type[CommandT], main: Callable[[CommandT], int | None]) -> int:
    try:
        startup.end()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return main(parse_command(command)) or 0
    except KeyboardInterrupt:
        print("interrupted; finished files are kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except UserError as error:
        message, status = str(error), 2
    except ImportError as error:
        missing = missing_extra(error, running_program(sys.orig_argv))
        message, status = (missing, 2) if missing else describe_fault(error)
    except OSError as error:  # a full disk, a folder that is not writable
        message, status = f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    except Exception as error:
        message, status = describe_fault(error)
    print(f"error: {message}", file=sys.stderr)
    return status
