"""Typed settings of every command: a YAML preset, dotted overrides on the command line, errors in plain sentences.

A component keeps its `Settings` beside it; a program collects them in a `Command` and calls `run_command`.
"""

import argparse
import difflib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
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


class UserError(Exception):
    """Something the user can mend; the message is one clear sentence and is all that is printed."""


class Settings(BaseModel):
    """Base of a component's settings: immutable, unknown keys refused, docstrings below fields become `--help`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Command(BaseSettings):
    """Base of a program's settings: command line over the YAML file given by `--config` over the defaults."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    program: ClassVar[str]
    """How the program is called, shown in `--help`."""

    config: Path | None = None
    """YAML file with any of the options below, nested by their dots."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out the environment: a stray variable must not change a run."""
        return (init_settings,)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        for unknown in re.findall(r"--[^\s=]+", message) if "unrecognized" in message else ():
            close = difflib.get_close_matches(unknown, options, n=3)
            message = f"unknown option {unknown}" + (f"; did you mean {' or '.join(close)}?" if close else "")
        print(f"error: {message} ({self.prog} --help lists all options)", file=sys.stderr)
        raise SystemExit(2)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing or is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines, not a {type(content).__name__}")
    return content


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; the members of a list of mappings have numbers for names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(member, Mapping) for member in value):
            value = {str(number): member for number, member in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _allowed_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(model, problem["loc"][:-1]))
            lines.append(f"unknown key {key}; allowed here: {allowed}")
        elif problem["type"] == "missing":
            lines.append(f"--{key} is required")
        else:
            reason = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{key} = {problem['input']!r}: {reason}" if key else reason)
    return "; ".join(lines)


_PLAIN_TYPES = {"float": "NUMBER", "int": "NUMBER", "str": "TEXT", "Path": "PATH"}


def _plain_help(parser: argparse.ArgumentParser) -> None:
    """Say what an option takes in words, not in Python's names of types."""
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


def _normalise(model: type[BaseModel], arguments: Sequence[str]) -> list[str]:
    """Rewrite what pydantic-settings does not always read: `--list a,b`, `--flag true|false`, `--two-words`, `--k`."""
    types = dict(_options(model))
    known = {name.replace("_", "-"): name for name in types if "_" in name}
    known |= {f"--no-{name[2:]}": f"--no-{known[name][2:]}" for name in known}
    known |= {name: name[1:] for name in types if len(name) == len("--k")}  # a letter is called -k; --k is it, too
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
        UserError: an unknown key or a bad value, named together with what is allowed.
    """
    arguments = _normalise(command, sys.argv[1:] if argv is None else argv)
    config_parser = _Parser(prog=command.program, add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path)
    preset_path = config_parser.parse_known_args(arguments)[0].config
    preset = load_yaml(preset_path) if preset_path else {}
    parser = _Parser(prog=command.program, description=command.__doc__, allow_abbrev=False)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            command, root_parser=parser, cli_implicit_flags=True, cli_avoid_json=True
        )
        _plain_help(parser)
        source(args=arguments)
        return command(_cli_settings_source=source, **preset)  # the command line wins over the preset
    except ValidationError as error:
        raise UserError(_describe(command, error)) from error
    except SettingsError as error:
        raise UserError(f"an option's value is no valid list: {error.__cause__ or error}") from error


def run_command(command: type[CommandT], main: Callable[[CommandT], int | None]) -> NoReturn:
    """Parse the command line, run `main` and exit: the boundary of every program.

    Whatever ends `main`, a user's error, a full disk, Ctrl-C or a fault of ours, is said in one line; nothing that is
    printed can end it.
    """
    with lasting_output():
        raise SystemExit(_status(command, main))


def _status(command: type[CommandT], main: Callable[[CommandT], int | None]) -> int:
    try:
        startup.end()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return main(parse_command(command)) or 0
    except KeyboardInterrupt:
        print("interrupted; files that were finished are kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except UserError as error:
        message, status = str(error), 2
    except OSError as error:  # a full disk, a folder that cannot be written
        message, status = f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    except Exception as error:
        message, status = describe_fault(error)
    print(f"error: {message}", file=sys.stderr)
    return status
