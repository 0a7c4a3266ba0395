"""Merge strategies: one file each, named as the strategy is on the command line.

A file has a function `merge(adapters, weights, *, option=default, ...)` that takes and returns adapters as tensors. Its
keyword-only parameters are what `--lora_merge_options` can set. It sees no model, no text and no flag, and imports torch only
inside its functions. A strategy that learns has a third parameter, `merge(adapters, weights, examples, ...)`: a
`src.training.merge_examples.MergeExamples`, which tells what an update costs on examples and trains one on them; the file's
`NUM_EXAMPLES` is how many it gets by default. A file with `FINDS_WEIGHTS = True` takes no weights from the command line.
A strategy may also be a file from elsewhere, given by its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from src.calibration import DEFAULT_NUM_EXAMPLES
from src.calibration import METHODS as CALIBRATION_METHODS
from src.errors import UserError, nearest

if TYPE_CHECKING:
    from src.adapters.lora import LoraAdapter
    from src.training.merge_examples import MergeExamples


def strategy_names() -> list[str]:
    """The names of this folder's strategies, without importing any."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def check_strategy(strategy: str) -> None:
    """Raise UserError unless the strategy is one of this folder's, or a file with a function `merge`."""
    if strategy in strategy_names():
        return
    if not strategy.endswith(".py"):
        raise UserError(f"unknown merge strategy {strategy!r}: {nearest(strategy, [*strategy_names(), *CALIBRATION_METHODS])}")
    if not Path(strategy).is_file():
        raise UserError(f"--lora_merge_strategy {strategy}: there is no such file")
    if not callable(getattr(_module(strategy), "merge", None)):
        raise UserError(f"--lora_merge_strategy {strategy}: the file has no function merge(adapters, weights)")


def options_of(strategy: str) -> dict[str, Any]:
    """The options of a strategy with their defaults, read off its signature."""
    parameters = inspect.signature(_module(strategy).merge).parameters.values()
    options = {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    for name, default in options.items():
        if type(default) not in (int, float, str):
            raise UserError(f"--lora_merge_strategy {strategy}: option {name} needs a default that is a number or a text")
    return options


def learns_from_examples(strategy: str) -> bool:
    """Whether a strategy looks at examples: its `merge` has a parameter of that name."""
    return "examples" in inspect.signature(_module(strategy).merge).parameters


def default_num_examples(strategy: str) -> int | None:
    """How many examples a strategy gets unless it is said; None for one that takes none."""
    return getattr(_module(strategy), "NUM_EXAMPLES", DEFAULT_NUM_EXAMPLES) if learns_from_examples(strategy) else None


def finds_weights(strategy: str) -> bool:
    """Whether a strategy finds the adapters' weights itself: its file says `FINDS_WEIGHTS = True`."""
    return getattr(_module(strategy), "FINDS_WEIGHTS", False)


def parse_options(strategy: str, words: list[str]) -> dict[str, Any]:
    """The values of `KEY=VALUE` words, each of its default's type; raises UserError with all mistakes."""
    known, found, mistakes = options_of(strategy), {}, []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            mistakes.append(f"--lora_merge_options {word}: expected KEY=VALUE")
        elif key not in known:
            hint = nearest(key, known) if known else "it has none"
            mistakes.append(f"--lora_merge_options {key}: {strategy} has no such option: {hint}")
        else:
            try:
                found[key] = type(known[key])(text)
                if isinstance(found[key], float) and not math.isfinite(found[key]):
                    raise ValueError
            except ValueError:
                kind = type(known[key]).__name__
                mistakes.append(f"--lora_merge_options {word}: expected {'a number' if kind in ('int', 'float') else kind}")
    if mistakes:
        raise UserError(*mistakes)
    return known | found


def merge(
    strategy: str,
    adapters: list[LoraAdapter],
    weights: list[float],
    options: dict[str, Any] | None = None,
    examples: MergeExamples | None = None,
) -> LoraAdapter:
    """Merge adapters by a named strategy; raises UserError when they don't fit together.

    Without weights, each adapter gets 1 / number of adapters. `examples` are for strategies that learn.
    """
    from src.adapters.lora import check_mergeable

    check_mergeable(adapters)
    weights = weights or [1 / len(adapters)] * len(adapters)
    if len(weights) != len(adapters):
        raise UserError(f"{len(weights)} weights were given for {len(adapters)} adapters")
    function: Callable[..., LoraAdapter] = _module(strategy).merge
    learned_from = [examples] if learns_from_examples(strategy) else []
    return function(adapters, weights, *learned_from, **(options or {}))


def _module(strategy: str) -> ModuleType:
    if not strategy.endswith(".py"):
        return importlib.import_module(f"{__name__}.{strategy}")
    specification = importlib.util.spec_from_file_location(Path(strategy).stem, strategy)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
