"""YAML presets: a file of options that may build on another one (`base`) and may hold several (`variants`)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import UserError

_NOT_AS_WRITTEN = re.compile(r"[-+]?(0[\d_]+|.*:.*)")
"""Numbers that YAML reads in base 8 or 60."""


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: keys are unique and text, and 010 and 1:30 are refused."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:  # as written: keys that `<<` merges are added later and may be repeated
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
        with path.open("rb") as stream:  # errors name it
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


class Preset(NamedTuple):
    """Nested options, and the file that set each of them."""

    values: dict[str, Any]
    files: dict[str, Path]
    """By dotted name, for groups of options the last file that set one of them."""

    def file_of(self, location: Sequence[int | str], value: object) -> Path | None:
        """The file that set the option at `location` to `value`; None if it was set elsewhere."""
        node: Any = self.values
        for part in location:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return None
        names = (".".join(map(str, location[:length])) for length in range(len(location), 0, -1))
        files = (self.files[name] for name in names if name in self.files)
        return next(files, None) if node is value or node == value else None


def load_preset(path: Path) -> Preset:
    """Read the preset FILE, or FILE:NAME for one of the `variants` of a file.

    A variant is merged over the other options of its file, and these over the preset that `base` names, relative to
    the file. Groups of options are merged key by key; everything else is replaced.

    Raises:
        UserError: a file cannot be read, `base` leads back to a file, or there is no such variant.
    """
    return _load(path, ())


def preset_name(path: Path) -> str:
    """Short name of the preset at `path`: the file's name without suffix, with the variant if there is one."""
    file, variant = _split(path)
    return f"{file.stem}:{variant}" if variant else file.stem


def _split(path: Path) -> tuple[Path, str]:
    """File and variant, which may be empty, of FILE or FILE:NAME."""
    name, colon, variant = path.name.partition(":")
    return (path.with_name(name), variant) if name and colon and not path.is_file() else (path, "")


def _load(path: Path, derived: tuple[Path, ...]) -> Preset:
    """The preset at `path`, the base of the presets `derived`."""
    file, variant = _split(path)
    chain = (*derived, file)
    if any(file.resolve() == other.resolve() for other in derived):
        raise UserError(f"{derived[-1]}: base must not lead back to the same file: {' -> '.join(map(str, chain))}")
    if derived and not file.is_file():
        raise UserError(f"{derived[-1]}: base = {path}: there is no such file")
    values = load_yaml(file)
    base, variants = values.pop("base", None), values.pop("variants", None)
    preset = Preset({}, {})
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{file}: base = {base!r}: must be the name of another preset")
        preset = _load(file.parent / base, chain)
    for options in (values, _variant(file, variants, variant)):
        named = dict.fromkeys(_dotted(options), file)
        preset = Preset(_merge(preset.values, options), preset.files | named)
    return preset


def _variant(file: Path, variants: object, name: str) -> dict[str, Any]:
    """The options of the variant `name` of a file; empty for a file without variants."""
    if variants is None and not name:
        return {}
    if not isinstance(variants, dict) or not all(isinstance(options, dict) for options in variants.values()):
        raise UserError(f"{file} has no variants to choose {name} from: under `variants`, give names and their options")
    if name not in variants:
        which = f"has no variant {name}" if name else "holds several presets"
        raise UserError(f"{file} {which}: give {file}:NAME with one of {', '.join(variants)}")
    options: dict[str, Any] = variants[name]
    return options


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all options and groups of options."""
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
