"""A LoRA adapter as plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError, first_line

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoraFactors:
    """The low-rank update of one linear module: ΔW = scaling · B A, with A (rank × d_in) and B (d_out × rank)."""

    A: torch.Tensor
    B: torch.Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """The number of rows of A."""
        return self.A.shape[0]

    @property
    def d_in(self) -> int:
        """The size of the module's inputs."""
        return self.A.shape[1]

    @property
    def d_out(self) -> int:
        """The size of the module's outputs."""
        return self.B.shape[0]

    def delta(self) -> torch.Tensor:
        """ΔW (d_out × d_in) in float32."""
        return self.scaling * (self.B.float() @ self.A.float())


@dataclass(frozen=True)
class LoraAdapter:
    """The updates of an adapter by module path in the base model, such as `model.layers.0.self_attn.q_proj`.

    `scaling_by_root_of_rank` records that the adapter was made with rsLoRA; the factors' scalings already include its effect.
    `report` holds what a merge reports, such as the relative error of a truncation. `learned` holds parameters that a merge has
    learned from examples; a device has to store them beside the adapters.
    """

    name: str
    base_model: str
    factors: dict[str, LoraFactors]
    scaling_by_root_of_rank: bool = False
    report: dict[str, Any] = field(default_factory=dict)
    learned: dict[str, torch.Tensor] = field(default_factory=dict)


def module_type(module_path: str) -> str:
    """The kind of a module, the last part of its path: q_proj, down_proj, ..."""
    return module_path.rsplit(".", 1)[-1]


def check_mergeable(adapters: list[LoraAdapter]) -> None:
    """Raise UserError unless the adapters have the same base model, and equal shapes in the modules that they share."""
    first, *others = adapters
    for other in others:
        if other.base_model != first.base_model:
            raise UserError(
                f"adapters {first.name} and {other.name} can't be merged: "
                f"their base models differ ({first.base_model}, {other.base_model})"
            )
        for path in first.factors.keys() & other.factors.keys():
            one, two = first.factors[path], other.factors[path]
            if (one.d_in, one.d_out) != (two.d_in, two.d_out):
                raise UserError(
                    f"adapters {first.name} and {other.name} can't be merged: {path} is {one.d_out} × {one.d_in} in one "
                    f"and {two.d_out} × {two.d_in} in the other; were they trained on the same base model?"
                )


def merged_by_module(
    name: str,
    adapters: list[LoraAdapter],
    weights: list[float],
    merge_module: Callable[[list[tuple[float, LoraFactors]], str], LoraFactors],
    in_threads: bool = False,
) -> LoraAdapter:
    """Merge module by module. `merge_module` gets the (weight, factors) of the adapters that update a module, and its path.

    With `in_threads`, several modules are merged side by side. That pays where full matrices are computed with. Raises UserError
    when a decomposition fails, as it does for values that are too large for its precision.
    """
    import torch

    def checked(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        try:
            return merge_module(parts, path)
        except torch.linalg.LinAlgError as error:
            fault = f"the merge {name} fails at {path}: {first_line(error).rstrip('.')}"
            raise UserError(f"{fault}: lower --lora_merge_weights, or check the adapters' values") from error

    paths = list(dict.fromkeys(path for adapter in adapters for path in adapter.factors))
    parts = [
        [(w, adapter.factors[path]) for adapter, w in zip(adapters, weights, strict=True) if path in adapter.factors]
        for path in paths
    ]
    merged = (_map_in_threads if in_threads else map)(checked, parts, paths)
    return LoraAdapter(name, adapters[0].base_model, dict(zip(paths, merged, strict=True)))


def _map_in_threads(function: Callable[..., LoraFactors], *arguments: list[Any]) -> list[LoraFactors]:
    """`map` over up to four threads that share torch's threads among them."""
    import torch

    available = torch.get_num_threads()
    workers = min(4, available)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(available // workers,)) as threads:
            return list(threads.map(function, *arguments))
    finally:
        torch.set_num_threads(available)  # some of torch's libraries have one number for all threads


def absent_as_zero(adapters: list[LoraAdapter]) -> list[LoraAdapter]:
    """The adapters, each with a zero update added for every module that only other adapters update."""
    import torch

    shapes = {path: (factors.d_out, factors.d_in) for adapter in adapters for path, factors in adapter.factors.items()}
    zeros = {path: LoraFactors(torch.zeros(1, d_in), torch.zeros(d_out, 1), 1.0) for path, (d_out, d_in) in shapes.items()}
    return [
        replace(adapter, factors={path: adapter.factors.get(path, zero) for path, zero in zeros.items()}) for adapter in adapters
    ]


def stacked(parts: list[tuple[float, LoraFactors]]) -> LoraFactors:
    """The exact sum Σ w ΔW as one update: factors are concatenated, ranks add up, and weight and scaling are folded into B."""
    import torch

    A = torch.cat([factors.A.float() for _, factors in parts], dim=0)
    B = torch.cat([weight * factors.scaling * factors.B.float() for weight, factors in parts], dim=1)
    return LoraFactors(A, B, scaling=1.0)


def with_learned_weights(name: str, adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """The exact sum Σ w_i ΔW_i, for a strategy that has learned the weights."""
    import torch

    merged = merged_by_module(name, adapters, weights, lambda parts, path: stacked(parts))
    return replace(merged, report={"weights": weights}, learned={"weights": torch.tensor(weights)})
