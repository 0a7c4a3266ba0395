"""The marker `slow`: what `make test-fast` leaves out, what starts first, and that it stands wherever it belongs.

A test that starts a process of Python or of a shell, an engine, or a training is slow. Without the marker it fails.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Generator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("python", "sh", "bash")
_METHODS = (
    ("transformers.trainer", "Trainer", "train", "a training"),
    ("compositional.prediction.vllm_engine", "VllmEngine", "__init__", "an engine"),
)
_WITH_SHARED_ENGINES = ("test_end_to_end", "test_vllm", "test_vllm_judge")
_fast_test: str | None = None  # the test that runs, unless it is slow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests so that those that run in one process stand together, and those that take longest start first."""
    seconds: dict[str, float] = defaultdict(float)
    for item in items:
        if mark := item.get_closest_marker("slow"):
            seconds[_together(item.nodeid)] += mark.args[0] if mark.args else 1
    items.sort(key=lambda item: -seconds[_together(item.nodeid)])


def _together(nodeid: str) -> str:
    """The tests that run in one process, and so share what fixtures of a module or session have made: those of one file.

    Those of three files share engines and finished workspaces.
    """
    file = Path(nodeid.split("::")[0]).stem
    return "engines" if file in _WITH_SHARED_ENGINES else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    return Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    global _fast_test
    for module, kind, method, what in _METHODS:
        if module in sys.modules:
            _watch(getattr(sys.modules[module], kind), method, what)
    _fast_test = None if item.get_closest_marker("slow") else item.nodeid
    try:
        return (yield)
    finally:
        _fast_test = None


def _watch(kind: type, method: str, what: str) -> None:
    original = getattr(kind, method)
    if hasattr(original, "__wrapped_by_slow__"):
        return

    @wraps(original)
    def watched(*arguments: Any, **options: Any) -> Any:
        _started(what)
        return original(*arguments, **options)

    watched.__wrapped_by_slow__ = True
    setattr(kind, method, watched)


def _started(what: str) -> None:
    if _fast_test:
        pytest.fail(f"{_fast_test} starts {what}: mark it with pytest.mark.slow")


def _see_processes(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and _fast_test and Path(str(arguments[0])).name.startswith(_PROGRAMS):
        _started("a process")


sys.addaudithook(_see_processes)
