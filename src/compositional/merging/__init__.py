"""Merge strategies: plain functions `(adapters, weights, ...)`. Every file in this folder is searched for them.

Each public function whose first parameters are `adapters` and `weights` is a strategy with the function's name; a function
called `merge` gets the file's name. A strategy takes and returns adapters as tensors, knows no model, text or flag, and imports
torch only inside the function. Its docstring gives formula and source. Its keyword-only parameters are the options that
`--lora_merge_options` sets. With a third parameter `examples`, a strategy learns from `MergeExamples`; one that is called
`single_task_examples` has `SingleTaskExamples`. The file's `NUM_EXAMPLES` is their default number (per data set), and
`FINDS_WEIGHTS = True` says that the strategy takes no weights from the command line.

A strategy may also be in a file elsewhere, which is given by its path and must have exactly one strategy.
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
    """Examples of the compositional task and a frozen base model: the interface for strategies that learn."""

    def loss(self, correction: Correction) -> float:
        """Mean cross-entropy of the target tokens, in nats, for the model with a correction."""
        ...

    def train(
        self,
        correction: Correction,
        learning_rate: float,
        epochs: float,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> Any:
        """Train a correction's parameters in place; returns a report (a dataclass). `penalty` is added to each loss."""
        ...


class SingleTaskExamples(MergeExamples, Protocol):
    """Examples of each adapter's own task, and a frozen base model."""

    def imitate(
        self,
        adapters: list[LoraAdapter],
        correction: Correction,
        learning_rate: float,
        epochs: float,
        temperature: float,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> Any:
        """Train a correction's parameters in place, so that the model answers each adapter's examples as with that adapter."""
        ...


@dataclass(frozen=True)
class Strategy:
    """A merge strategy: its function, and the facts read from its signature and file.

    `options` are the options with their defaults. `num_examples` is the default number of examples (None: it takes no examples).
    `learns_single_tasks` is whether these are examples of each adapter's own task, not of the composed one. `hash_of_file` is the
    SHA-256 of a file outside this package, computed when it was executed.
    """

    name: str
    function: Callable[..., LoraAdapter]
    options: dict[str, Any]
    num_examples: int | None
    finds_weights: bool
    learns_single_tasks: bool = False
    hash_of_file: str | None = None

    @property
    def learns(self) -> bool:
        """Whether it learns from examples."""
        return self.num_examples is not None

    @property
    def documentation(self) -> str:
        """Formula, source and deviations: the function's docstring, or else the file's."""
        return inspect.cleandoc(self.function.__doc__ or inspect.getmodule(self.function).__doc__ or "")

    @property
    def title(self) -> str:
        """A short title: the first line of the documentation up to a colon."""
        return self.documentation.splitlines()[0].partition(":")[0].rstrip(".")

    def parse_options(self, words: list[str]) -> dict[str, Any]:
        """All options: the user's `KEY=VALUE` words, converted to the types of the defaults, then the defaults.

        Raises UserError with all mistakes.
        """
        values, mistakes = {}, []
        for word in words:
            key, equals, text = word.partition("=")
            if not equals:
                mistakes.append(f"--lora_merge_options {word}: expected KEY=VALUE")
            elif key not in self.options:
                hint = nearest(key, self.options) if self.options else "it has none"
                mistakes.append(f"--lora_merge_options {key}: {self.name} has no such option: {hint}")
            else:
                try:
                    values[key] = type(self.options[key])(text)
                    if isinstance(values[key], float) and not math.isfinite(values[key]):
                        raise ValueError
                except ValueError:
                    kind = type(self.options[key]).__name__
                    mistakes.append(f"--lora_merge_options {word}: expected {'a number' if kind in ('int', 'float') else kind}")
        if mistakes:
            raise UserError(*mistakes)
        return self.options | values

    def merge(
        self,
        adapters: list[LoraAdapter],
        weights: list[float],
        options: dict[str, Any] | None = None,
        examples: MergeExamples | None = None,
    ) -> LoraAdapter:
        """Merge adapters; raises UserError when they are incompatible.

        An empty list of weights gives each adapter 1 / number of adapters. `examples` are for strategies that learn.
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
    known = [strategy for module in modules for strategy in _strategies_in(module)]
    return {strategy.name: strategy for strategy in sorted(known, key=lambda strategy: strategy.name)}


def find_strategy(name: str) -> Strategy:
    """The strategy of a given name, or of a file given by its path, which is executed; raises UserError if there is none."""
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
    candidates = [replace(strategy, hash_of_file=hash_of_file) for strategy in _strategies_in(module, name)]
    if len(candidates) != 1:
        names = f", it has {', '.join(one.name for one in candidates)}: leave one in it" if candidates else ""
        raise UserError(f"--lora_merge_strategy {name}: the file has no function merge(adapters, weights){names}")
    return candidates[0]


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
    """The strategies of a file; raises UserError for an option whose default is not a number or a text."""
    strategies_in_file, kinds = [], ("examples", "single_task_examples")
    for name, function in inspect.getmembers(module, inspect.isfunction):
        parameters = inspect.signature(function).parameters
        if name.startswith("_") or function.__module__ != module.__name__ or list(parameters)[:2] != ["adapters", "weights"]:
            continue
        options = {one.name: one.default for one in parameters.values() if one.kind is one.KEYWORD_ONLY}
        for option, default in options.items():
            if type(default) not in (int, float, str):
                raise UserError(f"--lora_merge_strategy {file or name}: option {option} needs a default that is a number or a text")
        strategies_in_file.append(
            Strategy(
                name=module.__name__.rsplit(".", 1)[-1] if name == "merge" else name,
                function=function,
                options=options,
                num_examples=getattr(module, "NUM_EXAMPLES", DEFAULT_NUM_EXAMPLES)
                if any(kind in parameters for kind in kinds)
                else None,
                finds_weights=getattr(module, "FINDS_WEIGHTS", False),
                learns_single_tasks="single_task_examples" in parameters,
            )
        )
    return strategies_in_file
