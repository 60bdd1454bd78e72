"""Find the clips or images of a class-folder tree and give each its sample key and label."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote_from_bytes

from pipeline.settings import UserError

Media = Literal["clips", "images"]
EXTENSIONS: dict[Media, frozenset[str]] = {
    "clips": frozenset(
        [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"]
    ),
    "images": frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]),
}
NO_CLASS = ""
"""Class of files that lie in no class folder; their label is -1."""


@dataclass(frozen=True)
class Source:
    """One input file: `path` relative to the data root, its sample key, and its class."""

    path: str
    key: str
    class_name: str
    label: int


@dataclass(frozen=True)
class Listing:
    """All inputs of one kind below a root, sorted by path; `ignored` counts the other files by extension."""

    media: Media
    sources: list[Source]
    classes: list[str]
    ignored: dict[str, int]


def sample_key(path: str) -> str:
    """File name without extension, in the characters a WebDataset key may have (no dot, no separator).

    Other bytes are percent-encoded, so different names keep different keys.
    """
    return quote_from_bytes(os.fsencode(Path(path).stem), safe="").replace(".", "%2E").replace("~", "%7E")


def _walk(root: Path) -> Iterator[str]:
    """Paths of all files below `root`, following links to folders once."""
    visited = {root.resolve()}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        for name in list(subfolders):
            target = Path(folder, name).resolve()
            if name.startswith(".") or target in visited:
                subfolders.remove(name)
            visited.add(target)
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in names)  # noqa: PTH118


def list_sources(root: Path, media: Media | None) -> Listing:
    """List the inputs below `root`; the first folder of a path is its class, whatever the depth.

    `media` None takes what is there, which must be of one kind.

    Raises:
        UserError: `root` is no folder, holds nothing usable, or holds both kinds and `media` is None.
    """
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist or is not a folder")
    paths: dict[Media, list[str]] = {"clips": [], "images": []}
    ignored: Counter[str] = Counter()
    for path in _walk(root):
        extension = Path(path).suffix.lower()
        kind = next((kind for kind, known in EXTENSIONS.items() if extension in known), None)
        if kind is None or media not in (None, kind):
            ignored[extension or Path(path).name] += 1
        else:
            paths[kind].append(path)
    found = [kind for kind in paths if paths[kind]]
    if len(found) != 1:
        what = "both clips and images: choose with --media" if found else "no file with a known media extension"
        raise UserError(f"the data folder {root} holds {what}")
    ordered = sorted(paths[found[0]], key=os.fsencode)
    class_of = {path: Path(path).parts[0] if len(Path(path).parts) > 1 else NO_CLASS for path in ordered}
    classes = sorted(set(class_of.values()) - {NO_CLASS}, key=os.fsencode)
    labels = {name: label for label, name in enumerate(classes)} | {NO_CLASS: -1}
    sources = [Source(path, sample_key(path), class_of[path], labels[class_of[path]]) for path in ordered]
    return Listing(found[0], sources, classes, dict(ignored))
