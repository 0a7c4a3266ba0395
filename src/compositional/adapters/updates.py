"""The updates of several adapters as one differentiable correction of a frozen model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from compositional.adapters.lora import LoraAdapter, LoraFactors


class Correction(Protocol):
    """Terms added to the outputs of linear modules: a calibration, or the updates of adapters."""

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the linear modules whose outputs it corrects."""
        ...

    def correction_of(self, module_path: str) -> nn.Module:
        """The term of one linear module: maps its input x (..., d_in) to what is added to its output, (..., d_out) or (d_out).

        The modules of all layers must run the same code, with tensors as their only difference, so that compiled code serves
        all layers.
        """
        ...


@dataclass
class _Selection:
    """What all modules share: `weights` (number of adapters) and `index` (batch), each example's adapter, or None for all."""

    weights: torch.Tensor
    index: torch.Tensor | None = None


class AdapterUpdates(nn.Module):
    """Σ_i w_i s_i B_i A_i (m_i ∘ x) for each module that an adapter updates.

    `weights` are w (number of adapters). With `column_scales`, m_i (d_in) are parameters initialised to w_i, and w_i is then 1.
    Otherwise m_i is 1. After a call of `choose`, each example of a batch is processed by a single adapter. The factors are
    non-persistent buffers, so checkpoints do not contain them.
    """

    def __init__(self, adapters: list[LoraAdapter], weights: list[float], column_scales: bool = False) -> None:
        super().__init__()
        self._numbers = {
            path: [number for number, adapter in enumerate(adapters) if path in adapter.factors]
            for path in dict.fromkeys(path for adapter in adapters for path in adapter.factors)
        }
        self._selection = _Selection(torch.ones(len(adapters)) if column_scales else torch.tensor(weights))
        self.scales = nn.ParameterDict()
        if column_scales:
            for number, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
                for path, factors in adapter.factors.items():
                    self.scales[_key("m", number, path)] = nn.Parameter(torch.full((factors.d_in,), weight))
        self._modules_by_path = nn.ModuleDict(
            {
                _key("update", 0, path): _ModuleUpdates(
                    {number: adapters[number].factors[path] for number in numbers},
                    len(adapters),
                    self.column_scales(path) if column_scales else [],
                    self._selection,
                )
                for path, numbers in self._numbers.items()
            }
        )

    @property
    def weights(self) -> torch.Tensor:
        """w (number of adapters)."""
        return self._selection.weights

    @weights.setter
    def weights(self, weights: torch.Tensor) -> None:
        self._selection.weights = weights

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the modules that at least one adapter updates."""
        return list(self._numbers)

    def choose(self, index: torch.Tensor) -> None:
        """Choose a single adapter for each example of the next batch: `index` (batch) has the adapters' numbers."""
        self._selection.index = index

    def correction_of(self, module_path: str) -> nn.Module:
        """Maps x (batch × length × d_in) to the module's update (batch × length × d_out)."""
        return self._modules_by_path[_key("update", 0, module_path)]

    def column_scales(self, module_path: str) -> list[nn.Parameter]:
        """m_i of each adapter that updates a module."""
        return [self.scales[_key("m", number, module_path)] for number in self._numbers[module_path]]

    def scales_of(self, number: int) -> dict[str, torch.Tensor]:
        """m of an adapter by module path, on the CPU."""
        paths = [path for path, numbers in self._numbers.items() if number in numbers]
        return {path: self.scales[_key("m", number, path)].detach().cpu() for path in paths}


class _ModuleUpdates(nn.Module):
    """The updates of one linear module by the adapters that update it, as two products for all of them.

    A (adapters × rank × d_in) and B (adapters × rank × d_out, with the scaling) are padded with zeros to the highest rank.
    `slots` (number of all adapters) has each adapter's place in A and B, -1 for those that do not update the module.
    """

    def __init__(self, factors: dict[int, LoraFactors], adapters: int, scales: list[nn.Parameter], selection: _Selection) -> None:
        super().__init__()
        rank = max(one.A.shape[0] for one in factors.values())
        padded = [(functional.pad(one.A.float(), (0, 0, 0, rank - one.A.shape[0])), one) for one in factors.values()]
        A = torch.stack([A for A, _ in padded])
        B = torch.stack([functional.pad(one.scaling * one.B.float(), (0, rank - one.B.shape[1])).T for _, one in padded])
        slots = torch.full((adapters,), -1)
        slots[list(factors)] = torch.arange(len(factors))
        for name, value in (("A", A), ("B", B), ("slots", slots), ("numbers", torch.tensor(list(factors)))):
            self.register_buffer(name, value, persistent=False)
        self._scales = tuple(scales)  # a tuple: they are AdapterUpdates' parameters, and stored once
        self._selection = selection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Σ w s B A (m ∘ x), (batch × length × d_out), or each example's update by its own adapter."""
        weights = self._selection.weights.to(x.device)
        A = self.A * torch.stack(self._scales).unsqueeze(1) if self._scales else self.A
        if self._selection.index is None:
            weighted = weights[self.numbers].view(-1, 1, 1) * A
            A, B = weighted.flatten(0, 1).to(x.dtype), self.B.flatten(0, 1).to(x.dtype)
            return functional.linear(functional.linear(x, A), B.T)
        index = self._selection.index
        slot = self.slots[index]
        weight = torch.where(slot < 0, 0.0, weights[index]).view(-1, 1, 1)
        A, B = (weight * A[slot.clamp(min=0)]).to(x.dtype), self.B[slot.clamp(min=0)].to(x.dtype)
        return (x @ A.transpose(1, 2)) @ B


def _key(kind: str, number: int, path: str) -> str:
    """A name for a submodule or parameter; torch allows no dots in it."""
    return f"{kind}{number}_{path.replace('.', '/')}"
