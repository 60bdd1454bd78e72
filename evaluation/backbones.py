"""Frozen patch features of frames, from weights of several origins."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.files import sha256_file
from pipeline.fingerprints import fingerprint
from pipeline.reading import read_json, reading
from pipeline.settings import UserError
from training.backbone.official import infer_settings, read_teacher_backbone
from training.backbone.tensor_files import check_finite, read_torch
from training.backbone.vit import VisionTransformer
from training.backbone.weights import build_backbone, load_backbone, random_backbone, read_card

Precision = Literal["fp32", "bf16"]
_DINOV2 = ("dinov2", "dinov2_with_registers")


class Extractor(NamedTuple):
    """A network that turns frames into grids of features."""

    patch_tokens: Callable[[Tensor], Tensor]
    """Normalized images (B, 3, H, W) to patch tokens (B, gh * gw, D), row by row."""
    patch_size: int
    device: torch.device
    precision: Precision = "fp32"

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patch grid (gh, gw) of a network size.

        Raises:
            UserError: the size is not a multiple of the patch size.
        """
        height, width = size
        if min(size) < 1 or height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"frames of {height}x{width} cannot be cut into patches: height and width must be multiples of the "
                f"patch size {self.patch_size} (--size; for VIP --long_side and --side_multiple)"
            )
        return height // self.patch_size, width // self.patch_size

    @torch.no_grad()
    def stream(self, images: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
        """Yield features (gh, gw, D) of images (3, H, W) of one size, in batches of at most `batch_size`.

        Raises:
            UserError: the features are not finite.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            height, width = self.grid((batch[0].shape[1], batch[0].shape[2]))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                tokens = self.patch_tokens(torch.stack(batch).to(self.device))
            if not tokens.isfinite().all():
                raise UserError("the weights give features that are NaN or infinite; they cannot be evaluated")
            yield from tokens.reshape(len(batch), height, width, -1)


def extractor_of(backbone: VisionTransformer, device: torch.device, precision: Precision = "fp32") -> Extractor:
    """Extractor of a backbone in memory, which should be in eval mode and on `device`."""
    return Extractor(lambda images: backbone(images).patches, backbone.settings.patch_size, device, precision)


class Checkpoint(NamedTuple):
    """Weights to score, with their name in tables."""

    name: str
    path: Path
    extractor: Extractor
    origin: dict[str, Any]
    """For the result file: path, hash and the card of the weights."""
    backbone: nn.Module


def open_checkpoint(
    path: Path, name: str, *, device: torch.device, random_seed: int | None = None, precision: Precision = "fp32"
) -> Checkpoint:
    """Open exported weights (.safetensors), the authors' checkpoint (.pth) or a folder of a transformers Dinov2.

    With a seed, only the architecture is used and the parameters are random.

    Raises:
        UserError: the file is missing or does not hold weights of a known kind.
    """
    if path.is_dir():
        model, sha256 = _open_transformers(path, random_seed)
        card: dict[str, Any] = {"transformers": model.config.model_type}
        registers = getattr(model.config, "num_register_tokens", 0)
        model.to(device).float().eval().requires_grad_(False)
        extractor = Extractor(
            lambda images: model(images).last_hidden_state[:, 1 + registers :],
            model.config.patch_size,
            device,
            precision,
        )
        backbone: nn.Module = model
    else:
        vit, card, sha256 = _open_file(path)
        if random_seed is not None:
            vit = random_backbone(vit.settings, random_seed)
        vit.to(device).float().eval().requires_grad_(False)
        extractor, backbone = extractor_of(vit, device, precision), vit
    origin = {"name": name, "path": str(path), "sha256": sha256, "card": card, "random_init_seed": random_seed}
    return Checkpoint(name, path, extractor, origin, backbone)


def _open_file(path: Path) -> tuple[VisionTransformer, dict[str, Any], str]:
    if path.suffix in (".pth", ".pt"):
        tensors = read_teacher_backbone(path)
        backbone = build_backbone(infer_settings(tensors, path), tensors, path)
        card = {"part": "teacher", "architecture": backbone.settings.model_dump(mode="json")}
        return backbone, card, sha256_file(path)
    backbone = load_backbone(path)
    return backbone, read_card(path), sha256_file(path)


def _open_transformers(path: Path, random_seed: int | None) -> tuple[Any, str]:
    try:
        kind = read_json(path / "config.json").get("model_type")
    except UserError as error:
        raise UserError(f"{path} is a folder without a readable config.json of transformers ({error})") from error
    if kind is None:
        raise UserError(
            f"{path} is not a folder of a transformers model; `python -m training.export {path} FILE` makes weights "
            "from a checkpoint"
        )
    if kind not in _DINOV2:
        raise UserError(f"{path} has a transformers model of the type {kind}; allowed are {' and '.join(_DINOV2)}")
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise UserError(f"{path} needs the package transformers: pip install transformers") from error
    transformers.utils.logging.disable_progress_bar()
    if random_seed is None and not any(path.glob("*.safetensors")):
        for file in sorted(path.glob("pytorch_model*.bin")):
            read_torch(file)  # for a file it refuses, transformers itself advises to run the code in it
    with reading(f"the model in {path}", "one that transformers can load"):
        if random_seed is None:
            model, report = transformers.AutoModel.from_pretrained(
                path, local_files_only=True, output_loading_info=True
            )
            if missing := sorted(report["missing_keys"]):
                raise UserError(f"the weights in {path} lack {len(missing)} tensors, such as {missing[0]}")
            check_finite(model.state_dict(), path)
        else:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(random_seed)
                model = transformers.AutoModel.from_config(config)
    parts = sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
    return model, fingerprint(path, parts)
