"""DINOv3: a frozen backbone with rotary positions, computed by `transformers` from tensors that were read here."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.reading import read_json, reading
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.layout import renormalization
from training.backbone.source import CONFIG, tensor_files
from training.backbone.tensor_files import check_finite, read_tensors
from training.backbone.vit import Tokens

_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps"),
    *("rope_theta", "image_size", "patch_size", "num_channels", "num_register_tokens", "use_gated_mlp"),
    *("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias", "layerscale_value"),
)
"""What is taken from a configuration: no key that makes `transformers` load anything."""


class RotaryBackbone(nn.Module):
    """A DINOv3 ViT with the output of our backbone; in eval mode and without gradients."""

    def __init__(self, model: Any, ignored: Iterable[str] = ()) -> None:  # noqa: ANN401 - transformers has no types
        super().__init__()
        self.ignored = sorted(ignored)
        """Tensors of the files that are no part of the model."""
        self.model: Any = model
        self.scale: Tensor
        self.shift: Tensor
        config = model.config
        self.width, self.patch_size, self.image_size = map(
            int, (config.hidden_size, config.patch_size, config.image_size)
        )
        self.registers = config.num_register_tokens
        self.renormalize(IMAGENET_MEAN, IMAGENET_STD)
        self.eval().requires_grad_(False)

    def renormalize(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set the pixel normalization that the model was trained with."""
        scale, shift = renormalization(mean, std)
        self.register_buffer("scale", scale.float().view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tokens:
        """Compute the tokens of ImageNet-normalized images (B, 3, H, W); H and W are multiples of the patch size."""
        x_bnd = self.model(images * self.scale + self.shift).last_hidden_state
        first_patch = 1 + self.registers
        return Tokens(x_bnd[:, 0], x_bnd[:, 1:first_patch], x_bnd[:, first_patch:])


def read_rotary(folder: Path, random_seed: int | None = None) -> RotaryBackbone:
    """Read a `transformers` folder of the type dinov3_vit; with a seed, its parameters are random.

    Raises:
        UserError: a file is missing or damaged or holds code, or the package transformers is absent.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise UserError(f"{folder} needs the package transformers: pip install transformers") from error
    transformers.utils.logging.disable_progress_bar()
    said = read_json(folder / CONFIG)
    tensors = {name: t for file in tensor_files(folder) for name, t in read_tensors(file).items()}
    with reading(f"the model in {folder}", "one that transformers can load"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        config = transformers.DINOv3ViTConfig(**{key: said[key] for key in _KEYS if key in said})
        if random_seed is not None:
            return RotaryBackbone(transformers.DINOv3ViTModel(config))
        model, report = transformers.DINOv3ViTModel.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, dtype=torch.float32
        )
        if missing := sorted(report["missing_keys"]):
            raise UserError(f"the weights in {folder} lack {len(missing)} tensors, such as {missing[0]}")
        check_finite(model.state_dict(), folder)
        return RotaryBackbone(model, report["unexpected_keys"])
