"""Code for vLLM's workers: adds a calibration's biases to the model's linear modules. vLLM imports it by name.

vLLM supports no LoRA adapter with biases. Learnable Calibration is one bias per module, so the bias is added to the base layer
that a LoRA wraps. An engine that will serve calibrations gets biases of zeros when it loads the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import LinearBase, MergedColumnParallelLinear, QKVParallelLinear
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.models.registry import ModelRegistry
from vllm.model_executor.utils import set_weight_attrs

from compositional.adapters.peft_folder import read_shapes
from compositional.calibration.parameters import read_biases
from compositional.core import processes as lifeline  # noqa: F401 - importing it is what it is for
from compositional.prediction.vllm_engine import RESERVE_BIASES

# vLLM's own StableLM supports no LoRA. A worker imports this module before it looks up the model's class.
ModelRegistry.register_model("StableLmForCausalLM", "compositional.prediction.vllm_stablelm:StableLmForCausalLMWithLora")


_load_model = BaseModelLoader.load_model


def _load_model_with_biases(self: BaseModelLoader, vllm_config: VllmConfig, *more: Any, **named: Any) -> torch.nn.Module:
    """vLLM's own loading, with a bias for every linear layer that has none.

    The biases come after the weights are loaded, and before vLLM brings weights and biases into the form of its kernels (on a CPU
    with AMX, biases beside small weights in bfloat16 are in float32), and compiles or captures the model.
    """
    load_weights = self.load_weights

    def load_weights_and_add_biases(model: torch.nn.Module, *rest: Any) -> None:
        load_weights(model, *rest)
        for layer in _linear_layers(model).values():
            if layer.bias is None:
                layer.bias = _zeros(layer)

    if vllm_config.additional_config.get(RESERVE_BIASES):
        self.load_weights = load_weights_and_add_biases
    return _load_model(self, vllm_config, *more, **named)


BaseModelLoader.load_model = _load_model_with_biases


class CalibrationExtension:
    """Methods that vLLM adds to its workers (`worker_extension_cls`)."""

    def set_calibration(self, folder: str | None) -> int:
        """Add the biases of a stored Learnable Calibration to the model's own, replacing those set before; None removes them.

        The biases' values are changed in place, so that compiled code and captured graphs see them. Returns the number of modules
        with an added bias. Raises KeyError when the model lacks the module of a bias.
        """
        own: dict[str, tuple[LinearBase, torch.Tensor]] = self.__dict__.setdefault("own_biases", {})
        for layer, bias in own.values():
            layer.bias.data.copy_(bias)
        own.clear()
        if folder is None:
            return 0
        model = self.get_model()
        layers = _linear_layers(model)
        biases = read_biases(Path(folder), read_shapes(Path(folder)))
        for path, bias in biases.items():
            name, shard = _place(path, layers, getattr(model, "packed_modules_mapping", {}))
            layer = layers[name]
            if name not in own:
                own[name] = (layer, layer.bias.detach().clone())
            layer.bias.data += _shard_of(layer, bias, shard)
        return len(biases)


def _linear_layers(model: torch.nn.Module) -> dict[str, LinearBase]:
    """The model's linear layers by path. For layers wrapped by a LoRA, the wrapped layer."""
    layers = {path: getattr(module, "base_layer", module) for path, module in model.named_modules()}
    return {path: layer for path, layer in layers.items() if isinstance(layer, LinearBase)}


def _place(path: str, layers: dict[str, Any], packed: dict[str, list[str]]) -> tuple[str, int | str | None]:
    """The (possibly fused) layer that contains a module, and the module's part of it as named by vLLM's weight loaders."""
    parent, _, leaf = path.rpartition(".")
    for fused, parts in packed.items():
        name = f"{parent}.{fused}"
        if leaf in parts and name in layers:
            if isinstance(layers[name], QKVParallelLinear):
                return name, "qkv"[parts.index(leaf)]
            if isinstance(layers[name], MergedColumnParallelLinear):
                return name, parts.index(leaf)
    return path, None


def _zeros(layer: LinearBase) -> torch.nn.Parameter:
    """A bias of zeros for this worker's part of a layer."""
    size = getattr(layer, "output_size_per_partition", layer.output_size)
    return torch.nn.Parameter(torch.zeros(size, dtype=layer.params_dtype, device=layer.weight.device), requires_grad=False)


def _shard_of(layer: LinearBase, bias: torch.Tensor, shard: int | str | None) -> torch.Tensor:
    """A module's bias at its place in this worker's part of a layer, zeros elsewhere, cut by vLLM's own weight loader."""
    placed = torch.nn.Parameter(torch.zeros_like(layer.bias), requires_grad=False)
    if hasattr(layer, "output_sizes") or hasattr(layer, "gather_output"):
        set_weight_attrs(placed, {"output_dim": 0})  # column-parallel: each worker has a part of the outputs
    loaded = bias.to(placed)
    layer.weight_loader(placed, loaded, shard) if shard is not None else layer.weight_loader(placed, loaded)
    return placed.data
