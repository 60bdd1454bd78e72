"""What a path says about an input: its kind by the extension, its class by the folders, and whether it is hidden."""

import posixpath
from pathlib import PurePosixPath
from typing import Literal

Media = Literal["clips", "images", "frames"]
CLIP_EXTENSIONS = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"]
)
IMAGE_EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
NO_CLASS = ""
"""Class of inputs that have none; their label is -1."""


def extension(path: str) -> str:
    """The extension of a file in lower case, with its dot; empty if it has none."""
    name = path[path.rfind("/") + 1 :]  # pathlib would take half of the time of listing
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def media_of(path: str) -> Media | None:
    """The kind of a file by its extension; None if it is not supported."""
    suffix = extension(path)
    return "clips" if suffix in CLIP_EXTENSIONS else "images" if suffix in IMAGE_EXTENSIONS else None


def class_of(path: str) -> str:
    """The first folder of a relative path; for paths that begin with / or .., the folder of the file."""
    first, *others = PurePosixPath(posixpath.normpath(path)).parts
    if first in ("/", "//", ".."):
        return NO_CLASS if len(others) < 2 else others[-2]
    return first if others else NO_CLASS


def is_hidden(path: str) -> bool:
    """Whether a file or a folder above it is hidden; of an absolute path, only the last folder counts.

    Hidden are names that begin with a dot, and `@eaDir`, the folders of thumbnails on Synology's servers.
    """
    parts = PurePosixPath(path).parts
    parts = parts[-2:] if path.startswith("/") else parts
    return any((part.startswith(".") and part != "..") or part == "@eaDir" for part in parts)
