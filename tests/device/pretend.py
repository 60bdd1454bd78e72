"""A CUDA device that is not there: its tensors say that they are on `cuda:0` and hold their values on the CPU.

An operation on tensors of two devices is refused as CUDA refuses it, and every time that the host would wait for the
device is noted. That proves placement, types and waits; not CUDA's kernels, nor the order of its streams.
"""

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from nvidia.dali import Pipeline
from torch import Tensor
from torch.utils import dlpack
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from indexing import extract
from indexing.extract import crop_graph
from pipeline.reader import dali
from pipeline.reader.graph import build_graph

DEVICE = torch.device("cuda", 0)
ROOT = f"{Path(__file__).parents[2]}/"
PROJECT = tuple(f"{ROOT}{folder}/" for folder in ("evaluation", "indexing", "pipeline", "training"))

_aten = torch.ops.aten
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)
_WAITING = (  # the host gets a value, or a size that depends on values
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten.bincount.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.repeat_interleave.Tensor,
    _aten._linalg_svd.default,
    _aten._linalg_eigh.default,
)

waits: list[str] = []
"""Each time that the host waited for the device: why, and the lines of the project that made it wait."""
_pinned: list[Tensor] = []  # kept, so that nothing else gets their memory


class Pretended(Tensor):
    """A tensor on the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    on_host: Tensor
    """The same tensor on the CPU."""

    @staticmethod
    def __new__(cls: type["Pretended"], values: Tensor) -> "Pretended":
        result: Pretended = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
            requires_grad=values.requires_grad,
        )
        result.on_host = values
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(operation, args, dict(kwargs or {}))

    def numpy(self, *_: object, **__: object) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    __array__ = numpy

    def record_stream(self, stream: object) -> None: ...

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.on_host!r} on {DEVICE}"


class _AllOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Also sees the operations without a tensor of the device, such as those that make one."""

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(operation, args, dict(kwargs or {}))


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation, on the device that CUDA would put it on."""
    if torch.is_inference_mode_enabled() and operation._can_decompose():  # as autograd does otherwise
        with _AllOperations():  # type: ignore[no-untyped-call]
            return operation.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = kwargs.get("device")
    on_device = any(isinstance(tensor, Pretended) for tensor in tensors)
    if operation is _aten.is_pinned.default:
        return _is_pinned(args[0])
    if operation is _aten._pin_memory.default:
        return _pin(args[0].clone())
    if operation is _aten.record_stream.default:
        return None
    if operation is _aten._has_compatible_shallow_copy_type.default:  # only asked while a module moves
        return False
    if operation is _aten._fused_sdp_choice.default and on_device:
        return torch.nn.attention.SDPBackend.MATH.value
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    if operation is _aten._to_copy.default and device is not None:
        moved = torch.device(device).type == DEVICE.type
        _note_copy(args[0], moved, kwargs.get("non_blocking", False))
        on_device = moved
    elif operation is _aten.copy_.default:
        on_device = isinstance(args[0], Pretended)
        _note_copy(args[1], on_device, args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    elif on_device:
        _check(operation, args, tensors)
    elif device is not None:
        on_device = torch.device(device).type == DEVICE.type
    pin = kwargs.get("pin_memory", False)
    if pin:
        kwargs["pin_memory"] = False
    values_args, values_kwargs = tree_map(
        lambda leaf: leaf.on_host if isinstance(leaf, Pretended) else leaf, (args, kwargs)
    )
    result = operation(*values_args, **values_kwargs)
    if pin:
        return _pin(result)
    if not on_device:
        return result
    changed = {id(tensor.on_host): tensor for tensor in tensors if isinstance(tensor, Pretended)}

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if operation._schema.is_mutable and id(leaf) in changed:
            tensor = changed[id(leaf)]
            assert tensor.shape == leaf.shape, f"{operation} changes a shape in place, which is not pretended"
            return tensor
        return Pretended(leaf)

    return tree_map(placed, result)


def _check(operation: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Refuse what CUDA refuses of an operation with a tensor on the device, and note what it waits for."""
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, Pretended)]
    if operation in _INDEXING and isinstance(args[0], Pretended):
        indices = [index for index in args[1] if index is not None]
        elsewhere = [tensor for tensor in elsewhere if all(tensor is not index for index in indices)]
        fills = operation is not _aten.index.Tensor and len(indices) == 1 and args[2].numel() == 1
        if any(not isinstance(index, Pretended) for index in indices):
            _wait("an index that is on the host")
        if any(index.dtype == torch.bool for index in indices) and not fills:
            _wait("a mask as index")
    elif operation in _WAITING:
        _wait(str(operation))
    written = (
        operation._schema.is_mutable and args and isinstance(args[0], Tensor) and not isinstance(args[0], Pretended)
    )
    if written or any(tensor.dim() for tensor in elsewhere):  # a scalar on the host may be read
        described = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"{operation} on two devices: {described}")


def _note_copy(source: Tensor, moved: bool, non_blocking: bool) -> None:
    if isinstance(source, Pretended) == moved:
        return
    if not non_blocking:
        _wait("a copy to the device" if moved else "a copy to the host")
    elif moved and not _is_pinned(source):
        _wait("a copy to the device from memory that is not pinned")


def _wait(reason: str) -> None:
    files = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_stack(None)]
    lines = [
        f"{file.removeprefix(ROOT)}:{line}" for file, line in files if file.startswith(PROJECT) and file != __file__
    ]
    waits.append(f"{reason}: {' < '.join(lines[:3])}")


def _pin(tensor: Tensor) -> Tensor:
    _pinned.append(tensor)
    return tensor


def _is_pinned(tensor: Tensor) -> bool:
    memory = tensor.untyped_storage().data_ptr()
    return any(memory == pinned.untyped_storage().data_ptr() for pinned in _pinned)


class _Stream:
    """The only stream; nothing on it is ever pending."""

    cuda_stream = 0

    def __init__(self, *_: object) -> None: ...
    def wait_event(self, event: object) -> None: ...
    def wait_stream(self, stream: object) -> None: ...
    def synchronize(self) -> None:
        _wait("a stream")


class _Event:
    """A mark on the stream."""

    def __init__(self, **_: object) -> None: ...
    def record(self, stream: object = None) -> None: ...
    def wait(self, stream: object = None) -> None: ...
    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _wait("an event")


def _without(build: Callable[..., Pipeline], device: str) -> Callable[..., Pipeline]:
    """A builder of DALI graphs that always builds for the CPU, whatever its argument `device` is."""

    def build_for_cpu(*args: Any, **kwargs: Any) -> Pipeline:
        bound = inspect.signature(build).bind(*args, **kwargs)
        pipeline = build(**{**bound.arguments, device: None})
        run_on_cpu = pipeline.run

        def run(stream: object = None) -> Any:
            if stream is None:
                _wait("DALI's outputs without a stream")
            return run_on_cpu()

        pipeline.run = run
        return pipeline

    return build_for_cpu


@contextlib.contextmanager
def pretended() -> Iterator[list[str]]:
    """Context in which PyTorch has the pretended device; DALI works on the CPU, and its tensors are put on the device.

    Yields `waits`, which is cleared. The process must have loaded `tests.device.guard`.
    """
    waits.clear()
    from_dlpack = dlpack.from_dlpack
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda *_: _Stream(),
        "Event": _Event,
        "Stream": _Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "set_device": lambda _: None,
        "synchronize": lambda *_: _wait("all streams"),
        "manual_seed_all": lambda _: None,
        "max_memory_allocated": lambda *_: 0,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        stack.enter_context(mock.patch.object(dali, "build_graph", _without(build_graph, "device_id")))
        stack.enter_context(mock.patch.object(extract, "crop_graph", _without(crop_graph, "device")))
        stack.enter_context(mock.patch.object(dlpack, "from_dlpack", lambda views: Pretended(from_dlpack(views))))
        before = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(values, device) makes a tensor on the host and copies it
        torch.__future__.set_swap_module_params_on_conversion(
            True
        )  # Module.to keeps the parameters that optimizers hold
        try:
            with _AllOperations():  # type: ignore[no-untyped-call]
                yield waits
        finally:
            torch._C._set_only_lift_cpu_tensors(before[0])
            torch.__future__.set_swap_module_params_on_conversion(before[1])
