"""Merge strategies: one file each, named as the strategy is on the command line.

A file has a function `merge(adapters, weights)` that takes and returns adapters as tensors. It sees no model, no text
and no flag.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from src.errors import UserError

if TYPE_CHECKING:
    from src.adapters.lora import LoraAdapter

    MergeFunction = Callable[[list[LoraAdapter], list[float]], LoraAdapter]


def strategy_names() -> list[str]:
    """The names of all strategies, without importing any."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def merge(strategy: str, adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Merge adapters by a named strategy; raises UserError when they don't fit together.

    Without weights, each adapter gets 1 / number of adapters.
    """
    from src.adapters.lora import check_mergeable

    check_mergeable(adapters)
    weights = weights or [1 / len(adapters)] * len(adapters)
    if len(weights) != len(adapters):
        raise UserError(f"{len(weights)} weights were given for {len(adapters)} adapters")
    function: MergeFunction = importlib.import_module(f"{__name__}.{strategy}").merge
    return function(adapters, weights)
