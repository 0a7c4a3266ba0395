r"""Show finished experiments side by side, on a page that this machine serves to itself.

python demo.py --experiments pocket_sum_tr_es_zero_shot pocket_sum_tr_es_multi_step pocket_sum_tr_es_learnable_calibration_pp_merge
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.hub import use_cache_without_network
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.demo.plan import make_demo_plan, parse_demo_arguments


def run(argv: list[str]) -> None:
    """Serve the page until Ctrl-C; raises UserError for the user's mistakes, before anything is loaded."""
    arguments, mistakes = parse_demo_arguments(argv)
    plan = make_demo_plan(arguments, mistakes)
    if any(shown.plan.needs_hub for shown in plan.experiments):
        use_cache_without_network()

    from compositional.demo.answering import load_methods
    from compositional.demo.server import address, listen, make_server

    with listen(arguments.port) as listening, TemporaryDirectory(prefix="demo-") as folder, suppress(KeyboardInterrupt):
        server = make_server(load_methods(plan, Path(folder)))
        print(f"{address(listening)} shows {len(plan.experiments)} experiments; Ctrl-C ends it", flush=True)
        server.run(sockets=[listening])


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
