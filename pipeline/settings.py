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

import yaml
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

CommandT = TypeVar("CommandT", bound="Command")

Seed = Annotated[int, Field(ge=0, lt=2**64)]
"""64 bits, which Philox, blake2b and torch accept."""
Share = Annotated[float, Field(ge=0, le=1)]
COUNT_LIMIT = 10**9
"""Default limit of integers: no run needs more, and sums and products of a few fit in 64 bits."""
FACTOR_LIMIT = 10**6
"""Default limit of weights, rates and factors."""
BATCH_LIMIT = 2**20
"""Limit of items in a batch of a model or a search."""
THREAD_LIMIT = 1024
"""Limit of threads and processes of a machine, and of items prepared ahead."""
WORKER_LIMIT = 2**16
"""Limit of processes of a cluster."""


class UserError(Exception):
    """An error that the user can fix; programs print its message, one clear sentence, and nothing else."""


def _takes(annotation: object, *types: type) -> bool:
    """Whether an annotation contains one of the plain types."""
    return annotation in types or any(_takes(part, *types) for part in get_args(annotation))


def _plain_number(cls: type[BaseModel], value: object, info: ValidationInfo) -> object:
    """Refuse `true` and `.inf` in YAML for numbers, which pydantic would accept as 1 and infinity."""
    annotation = cls.model_fields[str(info.field_name)].annotation
    if _takes(annotation, int, float):
        for member in value if isinstance(value, list) else [value]:
            if isinstance(member, bool) and not _takes(annotation, bool):
                raise ValueError("must be a number; YAML reads yes and on as true, no and off as false")
            if isinstance(member, float) and not math.isfinite(member):
                raise ValueError("must be a finite number, not .inf or .nan")
    return value


class Settings(BaseModel):
    """Base class of a component's settings: immutable, without unknown keys; field docstrings become `--help`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    _plain_numbers = field_validator("*", mode="before")(_plain_number)


class Command(BaseSettings):
    """Base class of a program's settings: options override the YAML file `--config`, which overrides defaults."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, case_sensitive=True
    )
    program: ClassVar[str]
    """Command line of the program, shown in `--help`."""

    config: Path | None = None
    """YAML file with any of the options below, nested at their dots."""
    _plain_numbers = field_validator("*", mode="before")(_plain_number)

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


_NOT_AS_WRITTEN = re.compile(r"[-+]?(0[\d_]+|.*:.*)")
"""Numbers that YAML reads in base 8 or 60."""


class _Loader(yaml.SafeLoader):
    """Strict YAML: refuses duplicate keys, keys other than text, and numbers such as 010 and 1:30."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:  # before merging: keys from `<<` may be overridden
            line = key.start_mark.line + 1
            if not key.tag.endswith((":str", ":merge")):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise UserError(f"{self.name}, line {line}: a key must be text, not {shown}; put it in quotes")
            if key.value in lines:
                raise UserError(
                    f"{self.name}: the key {key.value} is given twice, in lines {lines[key.value]} and {line}: keep one"
                )
            lines[key.value] = line
        return node

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and _NOT_AS_WRITTEN.fullmatch(node.value):
            base, line = 60 if ":" in node.value else 8, node.start_mark.line + 1
            raise UserError(
                f"{self.name}, line {line}: YAML reads {node.value} as a number in base {base}: write a plain number, "
                "or put it in quotes if it is text"
            )
        return node


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, is not a YAML mapping, or has a duplicate key.
    """
    try:
        with path.open("rb") as stream:  # errors contain its name
            content = yaml.load(stream, _Loader)
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines, not a {type(content).__name__}")
    return content


def _allowed_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


_RANGE = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
"""pydantic's error types for numbers."""


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
    """What to write instead if YAML read something else than intended."""
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


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(model, problem["loc"][:-1]))
            lines.append(f"unknown key {key}; allowed here: {allowed}")
        elif problem["type"] == "missing":
            lines.append(f"--{key} is required")
        elif problem["type"] in _OUT_OF_RANGE and (allowed := _range(model, problem["loc"])):
            lines.append(f"{key} = {problem['input']}: must be {allowed}")
        else:
            reason = re.sub(r"^Value error, | for <class .*>$", "", problem["msg"])
            if hint := _hint(problem):
                reason = hint if problem["type"] == "model_type" else f"{reason}; {hint}"
            lines.append(f"{key} = {problem['input']!r}: {reason}" if key else reason)
    return "; ".join(lines)


_PLAIN_TYPES = {"float": "NUMBER", "int": "NUMBER", "str": "TEXT", "Path": "PATH"}


def _plain_help(parser: argparse.ArgumentParser) -> None:
    """Describe values of options in words instead of Python's type names."""
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
    """All options of `model` with their types."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _options(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, annotation


def _normalize(model: type[BaseModel], arguments: Sequence[str]) -> list[str]:
    """Rewrite forms that pydantic-settings does not always parse: `--list a,b`, `--flag true`, `--two-words`, `--k`."""
    types = dict(_options(model))
    known = {name.replace("_", "-"): name for name in types if "_" in name}
    known |= {f"--no-{name[2:]}": f"--no-{known[name][2:]}" for name in known}
    known |= {name: name[1:] for name in types if len(name) == len("--k")}  # allow --k for -k
    words = iter(arguments)
    rewritten: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        name = known.get(name, name)
        word = name + equals + value
        if get_origin(types.get(name)) is tuple:
            value = value if equals else next(words, "")
            rewritten += [name, value if value.startswith("[") else json.dumps(value.split(",") if value else [])]
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
        UserError: an unknown key or an invalid value; the message lists what is allowed.
    """
    arguments = _normalize(command, sys.argv[1:] if argv is None else argv)
    config_parser = _Parser(prog=command.program, add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path)
    preset_path = config_parser.parse_known_args(arguments)[0].config
    preset = load_yaml(preset_path) if preset_path else {}
    if "config" in preset:
        raise UserError(f"{preset_path}: a config file cannot name another one (config): put its lines in here")
    parser = _Parser(prog=command.program, description=command.__doc__, allow_abbrev=False)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            command, root_parser=parser, cli_implicit_flags=True, cli_avoid_json=True
        )
        _plain_help(parser)
        source(args=arguments)
        return command(_cli_settings_source=source, **preset)  # options override the preset
    except ValidationError as error:
        raise UserError(_describe(command, error)) from error
    except SettingsError as error:
        raise UserError(f"an option's value is not a valid list: {error.__cause__ or error}") from error


def run_command(command: type[CommandT], main: Callable[[CommandT], int | None]) -> NoReturn:
    """Parse the command line, run `main` and exit: the entry point of every program.

    Every exception, such as a user's error, a full disk, Ctrl-C or a bug, becomes one line on stderr. Printing never
    raises.
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
    except OSError as error:  # a full disk, a folder that cannot be written
        message, status = f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    except Exception as error:
        message, status = describe_fault(error)
    print(f"error: {message}", file=sys.stderr)
    return status
