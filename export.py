r"""Export what an experiment answers with: a merged model that any tool loads, a PEFT adapter, or GGUF files for llama.cpp.

python export.py --experiment_name sum_tr_es_learnable_calibration_pp_merge_slm_v1 --to merged
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.flags import files_of_flags
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from compositional.export.plan import make_export_plan, parse_export_arguments

logger = logging.getLogger(__name__)


def run(argv: list[str]) -> Path:
    """Export, and return the folder; raises UserError for the user's mistakes, before anything is written."""
    arguments, mistakes = parse_export_arguments(argv)
    plan = make_export_plan(arguments, mistakes, files_of_flags(argv))
    if plan.is_there:
        logger.info("%s (done already; --overwrite writes it again)", plan.folder)
        return plan.folder

    from compositional.export.folders import write_export

    name, workspace = arguments.experiment_name, Workspace(Path(arguments.workspace))
    with workspace.locked(export=name), workspace.locked(experiment=name, shared=True):
        # Another call may have ended, or the experiment run again, since the plan was made.
        plan = make_export_plan(arguments)
        return plan.folder if plan.is_there else write_export(plan)


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
