"""A session with a running demo, as a page asks it: the seconds of each method on random conversations of the test split.

    python demo.py --workspace FOLDER                      in another terminal
    python -m benchmarks.demo_session --conversations 20

The methods that compose the same tasks answer each conversation in turn, so that what else the machine does falls on all alike.
Prints a Markdown table: passes, seconds (of all passes, as the page shows them), the median over conversations of the ratio to the
method with the most passes, and the extra bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from compositional.core.errors import UserError
from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned

_DIRECTLY = build_opener(ProxyHandler({}))


def main(argv: list[str] | None = None) -> int:
    return exit_code_of(lambda: run(argv))


def run(argv: list[str] | None) -> None:
    """Ask, and print a table for each composed task; raises UserError where no demo answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8642/", help="where the demo says it is")
    parser.add_argument("--conversations", type=int, default=20)
    options = parser.parse_args(argv)
    if options.conversations < 1:
        raise UserError(f"--conversations {options.conversations}: must be at least 1")
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in _get(options.url, "offered"):
        by_task[", ".join([one["main_task"], *one["auxiliary_tasks"]]) + f" ({one['inputs']}, {one['model']})"].append(one)
    for task, methods in by_task.items():
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.conversations):
            text = _get(options.url, f"example?{urlencode({'experiment': methods[0]['experiment']})}")["text"]
            for name, taken in _seconds(options.url, text, [one["experiment"] for one in methods]).items():
                seconds[name].append(taken)
        print(f"{time.strftime('%Y-%m-%d')}, {task}, {options.conversations} conversations\n\n{_table(methods, seconds)}")


def _get(url: str, path: str) -> Any:
    try:
        with _DIRECTLY.open(f"{url}{path}", timeout=60) as answer:
            return json.loads(answer.read())
    except URLError as error:
        raise UserError(f"--url {url}: no demo answers there ({error.reason}): python demo.py starts one") from error


def _seconds(url: str, text: str, experiments: list[str]) -> dict[str, float]:
    """The seconds of each experiment's answer."""
    body = json.dumps({"text": text, "experiments": experiments}).encode()
    with _DIRECTLY.open(Request(f"{url}answers", body, {"Content-Type": "application/json"}), timeout=3600) as lines:
        read = map(json.loads, lines)
        return {one["experiment"]: one["seconds"] for one in read if one["done"]}


def _table(methods: list[dict[str, Any]], seconds: dict[str, list[float]]) -> str:
    reference = max(methods, key=lambda one: one["passes"])
    lines = [("method", "passes", "seconds: least, median, most", f"of {reference['label']}'s", "extra bytes")]
    for one in methods:
        own, others = seconds[one["experiment"]], seconds[reference["experiment"]]
        ratio = median(mine / other for mine, other in zip(own, others, strict=True))
        shown = f"{min(own):.2f}, {median(own):.2f}, {max(own):.2f}"
        lines.append((one["label"], f"{one['passes']}×", shown, f"{ratio:.2f}", f"{one['extra_bytes']:,}"))
    return aligned(lines)


if __name__ == "__main__":
    sys.exit(main())
