"""Sample keys: a function of the path of each input alone, so that they stay when inputs are added."""

import hashlib
import posixpath
import re
from pathlib import PurePosixPath
from urllib.parse import quote_from_bytes

from pipeline.paths import path_bytes
from pipeline.spec import Keys

_UNIQUE_NAME = re.compile(
    r"[\w-]{11}_\d{6}_\d{6}"  # Kinetics: the id of YouTube, start and end
    r"|n\d{8}_\d+(_n\d{8})?"  # ImageNet: synset and number; Hugging Face's copy repeats the synset
    r"|ILSVRC20\d\d_(train|val|test)_\d{8}(_n\d{8})?",
    re.ASCII,
)
"""File names without extension that name one clip or image wherever it lies."""
MOST_BYTES = 200
"""Longer keys of paths end in a digest: with a segment and an extension a key is a file name when a shard is unpacked,
and most file systems allow 255 bytes."""
_DIGEST_BYTES = 16


def encoded(name: str) -> str:
    """A name or path as a WebDataset key (no dot, no separator).

    All bytes but letters, digits, - and _ are percent-encoded, so that different names have different keys.
    """
    return quote_from_bytes(path_bytes(name), safe="").replace(".", "%2E").replace("~", "%7E")


def _path_key(path: str) -> str:
    """The whole path, with its extension: `a.mp4` and `a.avi` are two inputs. A ~ is in no key but a shortened one."""
    path = posixpath.normpath(path)
    key = encoded(path)
    if len(key) <= MOST_BYTES:
        return key
    digest = hashlib.blake2b(path_bytes(path), digest_size=_DIGEST_BYTES).hexdigest()
    beginning = key[: MOST_BYTES - 1 - len(digest)]
    return f"{re.sub('%.?$', '', beginning)}~{digest}"  # without a cut escape at the end


def sample_key(path: str, keys: Keys, *, is_folder: bool = False) -> str:
    """The key of the input at `path` below the data root: `stem` is the name without extension, `path` all of it.

    `auto` is the stem for names of Kinetics and ImageNet, otherwise the path. A folder's name has no extension.
    """
    file = PurePosixPath(path)
    name = file.name if is_folder else file.stem
    by_stem = keys == "stem" or (keys == "auto" and _UNIQUE_NAME.fullmatch(name))
    return encoded(name) if by_stem else _path_key(path)
