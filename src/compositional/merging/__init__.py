"""Merge strategies: plain functions `(adapters, weights, ...)` in the files of this folder, found by being there.

Each public function of a file whose first parameters are `adapters` and `weights` is a strategy of its name; one called
`merge` has the file's name. It takes and returns adapters as tensors, sees no model, no text and no flag, and imports torch
only inside. Its docstring gives formula and source. Keyword-only parameters are what `--lora_merge_options` can set. A
third parameter `examples` makes it a strategy that learns: it gets `MergeExamples`. The file's `NUM_EXAMPLES` says how many
it gets by default, and `FINDS_WEIGHTS = True` that it takes no weights from the command line.

A strategy may also stand in a file elsewhere, which is given by its path and has one strategy in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from compositional.calibration import DEFAULT_NUM_EXAMPLES
from compositional.calibration import METHODS as CALIBRATION_METHODS
from compositional.core.errors import UserError, nearest
from compositional.core.files import hash_of_files

if TYPE_CHECKING:
    import torch

    from compositional.adapters.lora import LoraAdapter
    from compositional.adapters.updates import Correction


class MergeExamples(Protocol):
    """Examples of the compositional task and a frozen base model, as a strategy that learns sees them."""

    def loss(self, correction: Correction) -> float:
        """Mean cross-entropy of the target tokens, in nats, of the model with a correction."""
        ...

    def train(
        self,
        correction: Correction,
        learning_rate: float,
        epochs: float,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> Any:
        """Train a correction's parameters in place; returns a dataclass that reports on it. `penalty` is added to each loss."""
        ...


@dataclass(frozen=True)
class Strategy:
    """A merge strategy: its function, and what its signature and its file say of it.

    `options` have their defaults; `num_examples` is how many examples it gets unless told otherwise (None: it takes none);
    `hash_of_file` is the SHA-256 of the file of a strategy from elsewhere, as it was when it was executed.
    """

    name: str
    function: Callable[..., LoraAdapter]
    options: dict[str, Any]
    num_examples: int | None
    finds_weights: bool
    hash_of_file: str | None = None

    @property
    def learns(self) -> bool:
        """Whether it looks at examples."""
        return self.num_examples is not None

    @property
    def documentation(self) -> str:
        """Formula, source and deviations: the function's docstring, or the file's where the function has none."""
        return inspect.cleandoc(self.function.__doc__ or inspect.getmodule(self.function).__doc__ or "")

    @property
    def title(self) -> str:
        """What it is, in a few words: the documentation's first line up to a colon."""
        return self.documentation.splitlines()[0].partition(":")[0].rstrip(".")

    def parse_options(self, words: list[str]) -> dict[str, Any]:
        """All options by the user's `KEY=VALUE` words, each of its default's type; raises UserError with all mistakes."""
        found, mistakes = {}, []
        for word in words:
            key, equals, text = word.partition("=")
            if not equals:
                mistakes.append(f"--lora_merge_options {word}: expected KEY=VALUE")
            elif key not in self.options:
                hint = nearest(key, self.options) if self.options else "it has none"
                mistakes.append(f"--lora_merge_options {key}: {self.name} has no such option: {hint}")
            else:
                try:
                    found[key] = type(self.options[key])(text)
                    if isinstance(found[key], float) and not math.isfinite(found[key]):
                        raise ValueError
                except ValueError:
                    kind = type(self.options[key]).__name__
                    mistakes.append(f"--lora_merge_options {word}: expected {'a number' if kind in ('int', 'float') else kind}")
        if mistakes:
            raise UserError(*mistakes)
        return self.options | found

    def merge(
        self,
        adapters: list[LoraAdapter],
        weights: list[float],
        options: dict[str, Any] | None = None,
        examples: MergeExamples | None = None,
    ) -> LoraAdapter:
        """Merge adapters; raises UserError when they don't fit together.

        Without weights, each adapter gets 1 / number of adapters. `examples` are for strategies that learn.
        """
        from compositional.adapters.lora import check_mergeable

        check_mergeable(adapters)
        weights = weights or [1 / len(adapters)] * len(adapters)
        if len(weights) != len(adapters):
            raise UserError(f"{len(weights)} weights were given for {len(adapters)} adapters")
        return self.function(adapters, weights, *([examples] if self.learns else []), **(options or {}))


@cache
def strategies() -> dict[str, Strategy]:
    """The strategies of this folder, by name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [strategy for module in modules for strategy in _strategies_in(module)]
    return {strategy.name: strategy for strategy in sorted(found, key=lambda strategy: strategy.name)}


def find_strategy(name: str) -> Strategy:
    """The strategy of a name, or of a file given by its path, which is executed; raises UserError when there is none."""
    if name in strategies():
        return strategies()[name]
    if not name.endswith(".py"):
        raise UserError(f"unknown merge strategy {name!r}: {nearest(name, [*strategies(), *CALIBRATION_METHODS])}")
    if not Path(name).is_file():
        raise UserError(f"--lora_merge_strategy {name}: there is no such file")
    specification = importlib.util.spec_from_file_location(Path(name).stem, name)
    module = importlib.util.module_from_spec(specification)
    hash_of_file = hash_of_files([Path(name)])
    specification.loader.exec_module(module)
    found = [replace(strategy, hash_of_file=hash_of_file) for strategy in _strategies_in(module, name)]
    if len(found) != 1:
        names = f", it has {', '.join(one.name for one in found)}: leave one in it" if found else ""
        raise UserError(f"--lora_merge_strategy {name}: the file has no function merge(adapters, weights){names}")
    return found[0]


def merge(
    strategy: str,
    adapters: list[LoraAdapter],
    weights: list[float],
    options: dict[str, Any] | None = None,
    examples: MergeExamples | None = None,
) -> LoraAdapter:
    """Merge adapters by a strategy's name or file; see `Strategy.merge`."""
    return find_strategy(strategy).merge(adapters, weights, options, examples)


def _strategies_in(module: ModuleType, file: str | None = None) -> list[Strategy]:
    """The strategies of a file; raises UserError for an option without a default that says its type."""
    found = []
    for name, function in inspect.getmembers(module, inspect.isfunction):
        parameters = inspect.signature(function).parameters
        if name.startswith("_") or function.__module__ != module.__name__ or list(parameters)[:2] != ["adapters", "weights"]:
            continue
        options = {one.name: one.default for one in parameters.values() if one.kind is one.KEYWORD_ONLY}
        for option, default in options.items():
            if type(default) not in (int, float, str):
                raise UserError(f"--lora_merge_strategy {file or name}: option {option} needs a default that is a number or a text")
        found.append(
            Strategy(
                name=module.__name__.rsplit(".", 1)[-1] if name == "merge" else name,
                function=function,
                options=options,
                num_examples=getattr(module, "NUM_EXAMPLES", DEFAULT_NUM_EXAMPLES) if "examples" in parameters else None,
                finds_weights=getattr(module, "FINDS_WEIGHTS", False),
            )
        )
    return found
