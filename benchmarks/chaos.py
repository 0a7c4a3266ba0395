"""Whether a disturbed command ends in the undisturbed one's files, or says in a line why not.

    python -m benchmarks.chaos --minutes 10
    python -m benchmarks.chaos --minutes 60 --commands train calibrate --disturbances killed

Each command runs at Pocket's size in a copy of a workspace, under one disturbance: killed at a random moment, on a full disk, with
a limit of file sizes, with a file or folder that is read-only, with a file truncated or a bit of it flipped, started twice, or with
a clock that jumps by a day. Then the cause is taken away and the command runs again. A trial is right if each run ended with exit
code 0, or with exit code 2 (a sweep: 1 or 2) and a line that begins with "error:", and if the files are at last those of an
undisturbed run, with no process and no unfinished file left.

Commands run in forks of this process, which has imported the libraries, so that a trial takes seconds. Sweeps and vLLM start
processes that can't be forked, so they run anew, and their trials take a minute. Prints a Markdown table and one line for each
trial that was not right.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

from benchmarks.disturbances import DISTURBANCES, Disturbance, Ending, Running, Usual, obey_file_modes, possible_disturbances
from compositional.core.files import hash_of_files
from compositional.core.tables import aligned

COMPARED = ("data", "output", "predictions", "stored_models", "exports")
# What a file of results says of the run itself, not of what came of it.
OF_THE_RUN = {
    *("sha256_of_this_record", "seconds", "seconds_per_update", "padding", "seconds.json"),
    *("workspace", "environment", "arguments"),
}
LEFT_BEHIND = (".unfinished", ".partial", ".replaced", ".training")

_POCKET = (
    "@configs/pocket.txt --max_train_examples 96 --max_test_examples 24 --max_new_tokens 12 --bootstrap_resamples 200 "
    "--report_to none --save_steps 2 --warmup_steps 0 --workspace {workspace} "
)
_COMPOSED = "--dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es "
_MERGED = f"{_COMPOSED}--lora_merge_modules sums translation --do_predict "
_TRAIN_SUMS = f"{_POCKET}--experiment_name sums --dataset pocket_dialogs --stored_model_name sums --do_train "
_TRAIN_TRANSLATION = (
    f"{_POCKET}--experiment_name translation --dataset pocket_sentences_es --stored_model_name translation --do_train "
)
_MERGE = f"{_POCKET}--experiment_name pocket_sum_tr_es_ties_merge {_MERGED}--lora_merge_strategy ties "
_CALIBRATE = (
    f"{_POCKET}--experiment_name pocket_sum_tr_es_lc {_MERGED}--lora_merge_strategy learnable_calibration_pp --for_each_component "
    "--merge_datasets pocket_dialogs_es --num_examples_merge 48 "
).replace("--max_train_examples 96 ", "")
_EXPORT = "--experiment_name pocket_sum_tr_es_lc --workspace {workspace} "
_SWEEP = (
    "--sub_tasks sum_tr_es --methods zero_shot linear_merge --workspace {workspace} --cpus_per_task 1 "
    "--experiment_flags=' --max_test_examples 12 --max_new_tokens 8' --single_task_flags=' --max_train_examples 48'"
)


@dataclass(frozen=True)
class Command:
    """A command under test: its script, its words, and the commands whose results it reads. {workspace} stands for the folder.

    `refusals` are the exit codes with which it may say what is wrong: a sweep whose steps have said it ends with 1.
    """

    script: str
    words: str
    needs: tuple[str, ...] = ()
    is_forked: bool = True
    refusals: tuple[int, ...] = (2,)


_OF_A_CALIBRATION = ("train", "train translation", "calibrate")
COMMANDS = {
    "prepare": Command(
        "prepare", "--only llm_toys_casual --raw_data_dir {workspace}/raw --length_models pocket --workspace {workspace}"
    ),
    "train": Command("run_experiment", _TRAIN_SUMS),
    "train translation": Command("run_experiment", _TRAIN_TRANSLATION),
    "merge": Command("run_experiment", _MERGE, ("train", "train translation")),
    "calibrate": Command("run_experiment", _CALIBRATE, ("train", "train translation")),
    "predict": Command("run_experiment", f"{_TRAIN_SUMS}--do_predict --do_valid --max_valid_examples 8 ", ("train",)),
    "predict, llama_cpp": Command(
        "run_experiment", f"{_TRAIN_SUMS}--do_predict --prediction_backend llama_cpp --prediction_dtype float32 ", ("train",)
    ),
    "predict, vllm": Command(
        "run_experiment", f"{_TRAIN_SUMS}--do_predict --prediction_backend vllm ", ("train",), is_forked=False
    ),
    "judge": Command(
        "llm_judge_eval",
        "--experiment_name pocket_sum_tr_es_lc --judge_model_name_or_path pocket --workspace {workspace}",
        _OF_A_CALIBRATION,
    ),
    "table": Command(
        "make_tables",
        "--sub_tasks sum_tr_es --methods ties_merge --workspace {workspace} --bootstrap_resamples 200",
        ("train", "train translation", "merge"),
    ),
    "export": Command("export", f"{_EXPORT}--to merged ", _OF_A_CALIBRATION),
    "export, gguf": Command("export", f"{_EXPORT}--to gguf ", _OF_A_CALIBRATION),
    "sweep": Command("run_sweep", _SWEEP, is_forked=False, refusals=(1, 2)),
}
_HELPING = ("train translation",)  # as "train"
DEFAULT = tuple(name for name in COMMANDS if name not in _HELPING)


@dataclass(frozen=True)
class Start:
    """A workspace in which a command can run, what an undisturbed run makes of it, and how long that takes."""

    folder: Path
    files: dict[str, str]
    usual: Usual


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="how long trials are begun")
    parser.add_argument("--trials", type=int, default=100, help="trials of a command, at most (default: 100)")
    parser.add_argument("--first_trial", type=int, default=0, help="the number of the first one, to go on with an earlier call's")
    parser.add_argument("--commands", nargs="+", choices=DEFAULT, default=DEFAULT)
    parser.add_argument("--disturbances", nargs="+", choices=possible_disturbances(), default=possible_disturbances())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the workspaces of trials that were not right")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    _import_libraries()
    end = time.monotonic() + 60 * arguments.minutes
    faults: dict[str, list[str]] = defaultdict(list)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    folder = Path(tempfile.mkdtemp(prefix="chaos."))  # a TemporaryDirectory would be deleted by each fork that ends
    try:
        lab = Laboratory(folder)
        for number, name in product(range(arguments.first_trial, arguments.trials), arguments.commands):
            if time.monotonic() > end:
                break
            random = Random(f"{arguments.seed} {name} {number}")
            kind = arguments.disturbances[number % len(arguments.disturbances)]
            fault, said = lab.trial(name, DISTURBANCES[kind], random, arguments.keep)
            counts[name]["trials"] += 1
            counts[name]["right"] += not fault
            counts[name]["said"] += said
            if fault:
                faults[name].append(f"{name}, trial {number} ({kind}): {fault}")
                print(f"\n{faults[name][-1]}", file=sys.stderr)
            print(f"\r{sum(count['trials'] for count in counts.values())} trials", end="", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    print(f"\n{time.strftime('%Y-%m-%d')}, seed {arguments.seed}\n")
    rows = [(name, *(str(counts[name][what]) for what in ("trials", "right", "said"))) for name in arguments.commands]
    print(aligned([("command", "trials", "right", "with a line that says why"), *rows]), end="")
    print("".join(f"- {fault}\n" for some in faults.values() for fault in some))
    return 1 if faults else 0


def _import_libraries() -> None:
    """Import what the commands import, on one thread and without a computation, so that this process can be forked."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import evaluate  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import scipy.stats  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    import export  # noqa: F401
    import llm_judge_eval  # noqa: F401
    import make_tables  # noqa: F401
    import run_experiment  # noqa: F401
    from compositional.experiment import stages  # noqa: F401
    from compositional.preparation import prepare  # noqa: F401
    from compositional.training import recipes, trainer  # noqa: F401


class Laboratory:
    """Makes starting points once, and tries commands in copies of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._starts: dict[str, Start] = {}
        self._numbers = iter(range(1_000_000))

    def trial(self, name: str, disturbance: Disturbance, random: Random, keep: Path | None) -> tuple[str | None, bool]:
        """Disturb a command, and run it again undisturbed. Returns the fault, if any, and whether a run said why it ended."""
        start = self.start(name)
        with self._copy(start.folder) as workspace:
            runner = self._runner(name, workspace)
            endings = disturbance(runner, random, start.usual)
            last = runner.start().wait(start.usual.patience)
            refusals = COMMANDS[name].refusals
            fault = next(filter(None, (_fault_of_ending(ending, refusals) for ending in endings)), None)
            if not fault and (last.code or last.processes_left):
                fault = f"afterwards, {_fault_of_ending(last, refusals) or _end(last.said)}"
            fault = fault or self._difference(start, workspace)
            if fault and keep:
                shutil.copytree(workspace, keep / f"{name.replace(', ', '_')}_{next(self._numbers)}", symlinks=True)
            return fault, any(ending.code in refusals for ending in endings)

    def start(self, name: str) -> Start:
        """The starting point of a command: the workspace after those that it needs."""
        if name not in self._starts:
            folder = self.folder / "starts" / name.replace(" ", "_").replace(",", "")
            folder.mkdir(parents=True)
            _write_tones(folder / "raw")
            for needed in COMMANDS[name].needs:
                self._run_undisturbed(needed, folder)
            with self._copy(folder) as workspace:
                before = sum(_sizes(workspace))
                seconds = self._run_undisturbed(name, workspace)
                sizes = _sizes(workspace)
                self._starts[name] = Start(folder, fingerprint(workspace), Usual(seconds, sum(sizes) - before, max(sizes)))
            with self._copy(folder) as workspace:
                self._run_undisturbed(name, workspace)
                if fault := self._difference(self._starts[name], workspace):
                    raise SystemExit(f"error: {name} differs from itself undisturbed: {fault}")
        return self._starts[name]

    def _run_undisturbed(self, name: str, workspace: Path) -> float:
        start = time.monotonic()
        ending = self._runner(name, workspace).start().wait(600)
        if ending.code:
            raise SystemExit(f"error: {name} fails undisturbed, exit code {ending.code}: {ending.said}")
        return time.monotonic() - start

    def _runner(self, name: str, workspace: Path) -> Runner:
        return Runner(COMMANDS[name], workspace, self.folder / "said" / str(next(self._numbers)))

    def _copy(self, folder: Path) -> _Copied:
        return _Copied(folder, self.folder / "workspace")

    def _difference(self, start: Start, workspace: Path) -> str | None:
        left = sorted(str(path.relative_to(workspace)) for path in workspace.rglob("*") if path.name.endswith(LEFT_BEHIND))
        if left:
            return f"left behind: {', '.join(left[:3])}"
        found = fingerprint(workspace)
        differing = sorted(key for key in start.files.keys() | found.keys() if start.files.get(key) != found.get(key))
        return f"other files than undisturbed: {', '.join(differing[:4])}" if differing else None


class _Copied:
    """A copy of a folder at a fixed path, so that paths in results are the same in each trial; deleted afterwards."""

    def __init__(self, folder: Path, copy: Path) -> None:
        self.folder, self.copy = folder, copy

    def __enter__(self) -> Path:
        shutil.copytree(self.folder, self.copy, symlinks=True)
        return self.copy

    def __exit__(self, *error: object) -> None:
        if os.path.ismount(self.copy):
            subprocess.run(["umount", str(self.copy)], check=True)
        shutil.rmtree(self.copy)


class Runner:
    """Starts a command in a workspace, as often as wanted."""

    def __init__(self, command: Command, workspace: Path, said: Path) -> None:
        self.command, self.workspace, self.said = command, workspace, said

    def start(self, before: Callable[[], None] = lambda: None) -> Running:
        """Start it; `before` is called in the process that runs it, ahead of it."""
        self.said.parent.mkdir(exist_ok=True)
        output = self.said.with_name(f"{self.said.name}.{time.monotonic_ns()}")
        words = shlex.split(self.command.words.format(workspace=self.workspace))
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.setsid()
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                for number in (1, 2):
                    os.dup2(descriptor, number)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                obey_file_modes()
                before()
                code = _run_here(self.command, words)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return Running(process, output)


def _run_here(command: Command, words: list[str]) -> int:
    """Run a command in this process, with the handlers at exit that it has registered."""
    import atexit
    import importlib

    if not command.is_forked:
        os.execv(sys.executable, [sys.executable, f"{command.script}.py", *words])
    module = "compositional.preparation.__main__" if command.script == "prepare" else command.script
    sys.argv = [f"{command.script}.py", *words]
    code = importlib.import_module(module).main()
    atexit._run_exitfuncs()
    return code


def fingerprint(workspace: Path) -> dict[str, str]:
    """What the commands' files hold, by path: hashes of files, and the values of JSON files but for those about the run itself."""
    found = {}
    for path in _files(workspace):
        place = str(path.relative_to(workspace))
        if path.name in OF_THE_RUN or "/.locks/" in place:
            continue
        if path.suffix == ".json":
            found |= {f"{place}: {key}": value for key, value in _leaves(path)}
        else:
            found[place] = hash_of_files([path])
    return found


def _leaves(path: Path) -> Iterator[tuple[str, str]]:
    try:
        value = json.loads(path.read_text())
    except ValueError:
        yield "", "not JSON"
        return
    stack = [("", value)]
    while stack:
        place, one = stack.pop()
        if isinstance(one, dict):
            stack += [(f"{place}.{key}", inner) for key, inner in one.items() if key not in OF_THE_RUN]
        elif isinstance(one, list):
            stack += [(f"{place}[{number}]", inner) for number, inner in enumerate(one)]
        else:
            yield place, json.dumps(one)


def _files(workspace: Path) -> Iterator[Path]:
    for folder in COMPARED:
        yield from (path for path in sorted((workspace / folder).rglob("*")) if path.is_file())


def _sizes(workspace: Path) -> list[int]:
    return [path.stat().st_size for path in workspace.rglob("*") if path.is_file()]


def _fault_of_ending(ending: Ending, refusals: tuple[int, ...]) -> str | None:
    """Why an ending isn't right: the run was not killed, and has neither succeeded nor said in lines what is wrong."""
    if ending.processes_left:
        return f"processes were left: {', '.join(ending.processes_left)}"
    if "Traceback (most recent call last)" in ending.said:
        return f"a traceback: {_end(ending.said)}"
    if ending.code in (0, -signal.SIGKILL):
        return None
    if ending.code not in refusals:
        return f"exit code {ending.code}: {_end(ending.said)}"
    return None if "error: " in ending.said else f"exit code {ending.code} without an error: {_end(ending.said)}"


def _end(said: str) -> str:
    return " / ".join(said.strip().splitlines()[-3:])[-400:]


def _write_tones(folder: Path) -> None:
    """llm-toys' file, with sentences of its form."""
    folder.mkdir()
    things = ("the tickets", "a cake", "the report", "some flowers", "the keys", "a map")
    rows = [
        {
            "original": f"Can you bring {thing} {day}?",
            "casual": f"Hey, bring {thing} {day}, will you?",
            "professional": f"Would you kindly bring {thing} {day}?",
            "witty": f"{thing} {day}, or the universe will weep!".capitalize(),
            "paraphrase": f"Are you able to bring {thing} {day}?",
        }
        for thing in things
        for day in ("today", "on Monday", "tomorrow", "at noon", "next week", "on Friday")
    ]
    (folder / "paraphrase_tone.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    sys.exit(main())
