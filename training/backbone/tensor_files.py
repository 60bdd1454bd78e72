"""Read and write tensor files: safetensors, and files of `torch.save`.

Code in a file is never run. A bad file is a UserError; a full disk is an OSError.
"""

import errno
import os
import re
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
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
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
        with path.open("rb") as stream:
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
    portable = path.suffix == ".safetensors" or head[8:] == b"{"
    content = read_safetensors(path)[1] if portable and not pickled else read_torch(path)
    tensors = {name: tensor for name, tensor in _named_tensors(content, "") if tensor.is_floating_point()}
    if not tensors:
        raise UserError(f"{path} holds no named tensors: give the weights of a model")
    return tensors


def _named_tensors(content: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content.detach()
    elif isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(name, str):
                yield from _named_tensors(value, f"{prefix}{name}.")


def check_content(path: Path) -> None:
    """Refuse files that are often mistaken for weights.

    Raises:
        UserError: the file cannot be read, is empty, or is a web page or a Git LFS pointer.
    """
    with reading(f"the weights {path}", "a file"), path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise UserError(f"{path} is empty: copy or download it again")
    if head.lstrip().startswith(b"<"):
        raise UserError(f"{path} is a web page, not weights: open it in a browser to see why, then download it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")


def _refusal(path: Path, error: Exception) -> str:
    """The message for a file that PyTorch refuses; PyTorch's own would advise running the code in it."""
    message = str(error)
    if name := re.search(r"GLOBAL (\S+)", message):
        if name[1] == "argparse.Namespace":
            return (
                f"{path} holds the options of a training program (argparse.Namespace) besides its tensors, and only "
                "tensors are read: save them alone, with `with torch.serialization.safe_globals("
                "[argparse.Namespace]): torch.save({'teacher': torch.load(FILE)['teacher']}, NEW_FILE)` (in place of "
                "teacher, the entry that holds the tensors, such as model or state_dict)"
            )
        return (
            f"{path} holds {name[1]}, an object that can run code when it is loaded, and only tensors are read: get a "
            "file of plain tensors from its author"
        )
    if "TorchScript" in message:
        return f"{path} is a TorchScript program, and only tensors are read: get a file of plain tensors"
    damaged = ("central directory", "unexpected EOF", "truncated", "invalid header or archive is corrupted")
    if isinstance(error, EOFError | OSError | IndexError) or any(sign in message for sign in damaged):
        return f"{path} is cut off or damaged: copy or download it again"
    return f"{path} is not a PyTorch file of plain tensors: give one that was written by torch.save"


def check_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        UserError: a tensor holds NaN or infinity; names the tensor and the file or folder `source`.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise UserError(f"{source} holds NaN or infinity in {broken[0]}{more}: give weights from before that step")
