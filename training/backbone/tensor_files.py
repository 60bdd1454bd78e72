"""Read and write tensor files: safetensors, and files of `torch.save`.

Code in a file is never run. A bad file is a UserError; a full disk is an OSError.
"""

import codecs
import contextlib
import errno
import itertools
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.reading import reading
from pipeline.settings import UserError

_HEAD_BYTES = 512
_DEPTH, _ENTRIES = 16, 100_000
"""Limits of dicts in dicts, and of all entries in them: more is no model."""
_PICKLES = 5
"""Pickles of which a file of `torch.save` without archive consists."""
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _system_error(error: BaseException, path: Path) -> OSError:
    """The error of the system behind a failed write to `path`, which safetensors and PyTorch hide in their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return OSError(cause.errno, os.strerror(cause.errno), str(path))
        cause = cause.__cause__ or cause.__context__
    number = re.search(r"os error (\d+)", str(error))
    code = int(number[1]) if number else errno.EIO
    return OSError(code, os.strerror(code), str(path))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    try:
        path.touch()
        mode = path.stat().st_mode
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
        path.chmod(mode)  # safetensors leaves a file that only its owner can read
    except SafetensorError as error:
        raise _system_error(error, path) from error


def write_torch(path: Path, content: object) -> None:
    """Write a file with `torch.save`; raises like `write_safetensors`."""
    try:
        with path.open("wb") as stream:  # with a stream, unlike a path, the system's error survives
            torch.save(content, stream)
    except RuntimeError as error:
        raise _system_error(error, path) from error


def read_safetensors(path: Path, hint: str = "") -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        UserError: it cannot be read, is cut off, or is another kind of file; the message ends with `hint`.
    """
    check_content(path)
    with reading(path, "a complete safetensors file", hint), safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_torch(path: Path) -> Any:  # noqa: ANN401 - any saved object
    """The content of a file of `torch.save`: tensors in lists and dicts, on the CPU.

    Raises:
        UserError: it cannot be read, is cut off, is another kind of file, or holds more than tensors.
    """
    check_content(path)
    try:
        with path.open("rb") as stream, warnings.catch_warnings(action="ignore"):  # about pickles of other programs
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(_refusal(path, error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All floating-point tensors of a safetensors file or a file of `torch.save`, told apart by their content.

    Dicts in dicts become dotted names: `{"teacher": {"norm.bias": ...}}` is `teacher.norm.bias`.

    Raises:
        UserError: as `read_safetensors` and `read_torch`, or there are no tensors.
    """
    check_content(path)
    with path.open("rb") as stream:
        head = stream.read(9)
    pickled = head.startswith((b"PK\x03\x04", b"\x80"))
    portable = _is_safetensors(head) or (path.suffix == ".safetensors" and not pickled)
    content = read_safetensors(path)[1] if portable else read_torch(path)
    found = list(itertools.islice(_named_tensors(content, "", 0, path), _ENTRIES + 1))
    if len(found) > _ENTRIES:
        raise UserError(f"{path} holds more than {_ENTRIES} entries: give the weights of a model")
    tensors = {name: value.detach() for name, value in found if isinstance(value, Tensor) and value.is_floating_point()}
    if not tensors:
        raise UserError(f"{path} holds no named tensors: give the weights of a model")
    for name, tensor in tensors.items():
        if kind := _unusual(tensor):
            raise UserError(f"{path} holds {name} as a {kind} tensor, which is not read: save plain tensors")
    return tensors


def _named_tensors(content: object, prefix: str, depth: int, path: Path) -> Iterator[tuple[str, object]]:
    """All entries of dicts in dicts that are not dicts, by dotted names."""
    if not isinstance(content, Mapping):
        yield prefix.removesuffix("."), content
        return
    if depth > _DEPTH:
        raise UserError(f"{path} holds dicts in dicts without end ({prefix[:40]}...): give the weights of a model")
    for name, value in content.items():
        yield from _named_tensors(value, f"{prefix}{name}.", depth + 1, path) if isinstance(name, str) else [("", None)]


def _unusual(tensor: Tensor) -> str:
    """What kind of tensor it is, if it does not hold all of its values one by one."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return "sparse or nested"
    if tensor.is_meta:
        return "meta (without values)"
    repeated = any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return "repeating (expanded)" if repeated else ""


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: with the length of their JSON header, whose first bytes may be any."""
    return head[4:9] == b"\0\0\0\0{"


def check_content(path: Path) -> None:
    """Refuse files that are often mistaken for weights.

    Raises:
        UserError: the file cannot be read, is empty, or is a web page or a Git LFS pointer.
    """
    with reading(f"the weights {path}", "a file"), path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise UserError(f"{path} is empty: copy or download it again")
    text = next((head.removeprefix(mark).replace(b"\0", b"") for mark in _MARKS if head.startswith(mark)), head)
    if text.lstrip().startswith(b"<") and not _is_safetensors(head):
        raise UserError(f"{path} is a web page, not weights: open it in a browser to see why, then download it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")


def _refusal(path: Path, error: Exception) -> str:
    """The message for a file that PyTorch refuses; PyTorch's own would advise running the code in it."""
    message = str(error)
    cut = f"{path} is cut off or damaged: copy or download it again"
    if "TorchScript" in message:
        return f"{path} is a TorchScript program, and only tensors are read: get a file of plain tensors"
    named = re.search(r"GLOBAL (\S+)", message)
    code = named and named[1]
    if not zipfile.is_zipfile(path):
        names = _globals(path)
        if code and code.rpartition(".")[2] not in {name.rpartition(".")[2] for name in names}:
            return cut  # in the name
        code = code or next((name for name in names if not name.startswith(("torch.", "collections."))), None)
    if code == "argparse.Namespace":
        return (
            f"{path} holds the options of a training program (argparse.Namespace) besides its tensors, and only "
            "tensors are read: save them alone, with `with torch.serialization.safe_globals("
            "[argparse.Namespace]): torch.save({'teacher': torch.load(FILE)['teacher']}, NEW_FILE)` (in place of "
            "teacher, the entry that holds the tensors, such as model or state_dict)"
        )
    if code:
        return (
            f"{path} holds {code}, an object that can run code when it is loaded, and only tensors are read: get a "
            "file of plain tensors from its author"
        )
    damaged = ("central directory", "unexpected EOF", "truncated", "invalid header or archive is corrupted")
    if isinstance(error, EOFError | OSError | IndexError) or any(sign in message for sign in damaged):
        return cut
    return f"{path} is not a PyTorch file of plain tensors: give one that was written by torch.save"


def _globals(path: Path) -> list[str]:
    """The objects that a file which is no archive names, as far as it can be read; nothing in it is run."""
    names, strings = list[str](), ["", ""]
    with path.open("rb") as stream, contextlib.suppress(ValueError, EOFError):
        for _ in range(_PICKLES):
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif code.name == "STACK_GLOBAL" and all(strings):
                    names.append(".".join(strings))
                elif isinstance(argument, str):
                    strings = [strings[1], argument]
    return names


def check_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        UserError: a tensor holds NaN or infinity; names the tensor and the file or folder `source`.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise UserError(f"{source} holds NaN or infinity in {broken[0]}{more}: give weights from before that step")
