"""The updates of several adapters as one differentiable correction of a frozen model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from compositional.adapters.lora import LoraAdapter


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
        self.register_buffer("weights", torch.ones(len(adapters)) if column_scales else torch.tensor(weights), persistent=False)
        for number, adapter in enumerate(adapters):
            for path, factors in adapter.factors.items():
                self.register_buffer(_key("A", number, path), factors.A.float(), persistent=False)
                self.register_buffer(_key("B", number, path), factors.scaling * factors.B.float(), persistent=False)
        self._rows: list[torch.Tensor] | None = None
        self.scales = nn.ParameterDict()
        if column_scales:
            for number, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
                for path, factors in adapter.factors.items():
                    self.scales[_key("m", number, path)] = nn.Parameter(torch.full((factors.d_in,), weight))

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the modules that at least one adapter updates."""
        return list(self._numbers)

    def choose(self, index: torch.Tensor) -> None:
        """Choose a single adapter for each example of the next batch: `index` (batch) has the adapters' numbers."""
        self._rows = [(index == number).nonzero().flatten() for number in range(len(self.weights))]

    def correction(self, module_path: str, x: torch.Tensor) -> torch.Tensor:
        """(batch × length × d_out) for x (batch × length × d_in)."""
        numbers = self._numbers[module_path]
        if self._rows is None:
            return sum(self._update(number, module_path, x) for number in numbers)
        total = x.new_zeros(*x.shape[:-1], getattr(self, _key("B", numbers[0], module_path)).shape[0])
        for number in numbers:
            rows = self._rows[number]
            if len(rows):
                update = self._update(number, module_path, x.index_select(0, rows))
                total = total.index_add(0, rows, update.to(total.dtype))
        return total

    def _update(self, number: int, module_path: str, x: torch.Tensor) -> torch.Tensor:
        """w s B A (m ∘ x) of a single adapter."""
        scaled = x * self.scales[_key("m", number, module_path)] if self.scales else x
        A, B = getattr(self, _key("A", number, module_path)), getattr(self, _key("B", number, module_path))
        return self.weights[number] * functional.linear(functional.linear(scaled, A.to(x.dtype)), B.to(x.dtype))

    def column_scales(self, module_path: str) -> list[nn.Parameter]:
        """m_i of each adapter that updates a module."""
        return [self.scales[_key("m", number, module_path)] for number in self._numbers[module_path]]

    def scales_of(self, number: int) -> dict[str, torch.Tensor]:
        """m of an adapter by module path, on the CPU."""
        paths = [path for path, numbers in self._numbers.items() if number in numbers]
        return {path: self.scales[_key("m", number, path)].detach().cpu() for path in paths}


def _key(kind: str, number: int, path: str) -> str:
    """A name for a buffer or parameter; torch allows no dots in it."""
    return f"{kind}{number}_{path.replace('.', '/')}"


class Correction(Protocol):
    """A term added to the outputs of linear modules: a calibration, or the updates of adapters."""

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the linear modules whose outputs it corrects."""
        ...

    def correction(self, module_path: str, x: torch.Tensor) -> torch.Tensor:
        """The term added to a module's output (..., d_out), for its input x (..., d_in)."""
        ...
