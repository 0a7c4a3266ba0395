"""The paper's comparison on a real LLM and real text, for replies in a professional tone: `make real-quickstart`.

SmolLM2-135M-Instruct (from the hub, or without one from PyPI) learns to reply on Synthetic-Persona-Chat, or to summarize on
DialogSum, and a tone on llm-toys. The composed targets are replies or summaries that SmolLM2 itself has rewritten, with a tone
adapter of another rank and seed than those that are merged. Ends with a table and ten examples side by side. A second call resumes
where the first stopped.
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import run_experiment

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.errors import UserError
from compositional.core.files import write_text
from compositional.core.flags import COUNT, build_parser, flag, parse
from compositional.core.hub import use_cache_without_network
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from compositional.data import dialogsum, llm_toys, synthetic_persona_chat
from compositional.models import smollm2
from compositional.prediction import PROMPTS_AT_A_TIME
from compositional.prediction.vllm_backend import Engines
from compositional.preparation import __main__ as preparation
from compositional.sweep.ablations import ablations
from compositional.sweep.benchmarks import SMOLLM2, SubTask
from compositional.sweep.graph import make_steps
from compositional.sweep.rows import PAPER_ROWS
from compositional.sweep.selection import Choice, cells, wrong_seeds
from compositional.sweep.steps import Kind
from compositional.tasks import find_task

logger = logging.getLogger(__name__)

# By main task: its publishers' files, and how all three splits are made of the validation file.
SOURCES = {
    "reply": (synthetic_persona_chat.SOURCE.files, synthetic_persona_chat.split_conversations),
    "summarization": (dialogsum.SOURCE.files, dialogsum.split_dialogues),
}
NEW_TOKENS = {"reply": 48, "summarization": 64}
METHODS = (
    *("Zero-shot", "Main-task LoRA", "Auxiliary-task LoRA", "In-context learning", "Linear merge", "Concat merge"),
    *("Multi-step LoRA usage", "Joint-expert LoRA", "Learnable Calibration", "Learnable Calibration++"),
)
ROWS = [row for row in PAPER_ROWS if row.label in METHODS]
NOTE = (
    "The targets were made by SmolLM2-135M-Instruct with a tone adapter of rank 8 and seed 7; the tone adapters that are merged, "
    "and that multi-step usage applies, have rank 16 and other seeds. They learned from some of the same sentences, so multi-step "
    "usage is close to what made the targets."
)


@dataclass
class RealQuickstartArguments:
    """How the comparison is run."""

    raw_data_dir: str | None = flag(
        None,
        "what",
        "folder with paraphrase_tone.json of llm-toys (github.com/kuutsav/llm-toys) and, without a hub, the files of "
        "Synthetic-Persona-Chat or DialogSum; of their validation file alone, test and validation examples are split off",
    )
    main_task: str = flag("reply", "what", "the main task", choices=tuple(SOURCES))
    tone: str = flag("professional", "what", "the tone that its outputs shall have", choices=llm_toys.TONES)
    seeds: list[int] = flag((0,), "what", "seeds of everything that is trained, single-task adapters included")
    methods: list[str] = flag(tuple(row.name for row in ROWS), "what", "rows of the table", choices=tuple(row.name for row in ROWS))
    main_examples: int = flag(1280, "what", "training examples of the main task's adapter", range=COUNT)
    tone_examples: int = flag(684, "what", "training examples of the tone adapter", range=COUNT)
    composed_examples: int = flag(640, "what", "composed training examples", range=COUNT)
    compare_targets: list[int] = flag(
        (),
        "what",
        "numbers of inputs from which LC++ learns twice, from composed targets and from the adapters' own two-step answers",
        range=COUNT,
    )
    batch_size: int = flag(16, "what", "examples of an update", range=COUNT)
    test_examples: int = flag(150, "what", "test examples", range=COUNT)
    prediction_backend: str = flag(
        "auto",
        "machine",
        "library that generates; auto: vLLM on a GPU, transformers otherwise",
        choices=("auto", *PROMPTS_AT_A_TIME),
    )
    workspace: str = flag("real", "machine", "folder that holds data, output, predictions, stored_models and the base model")


def run(argv: list[str]) -> None:
    """Run what is not done yet, and show the table; raises UserError for the user's mistakes."""
    arguments, mistakes = parse(build_parser(RealQuickstartArguments, "real_quickstart.py", __doc__), RealQuickstartArguments, argv)
    raw = Path(arguments.raw_data_dir or ".")
    if arguments.raw_data_dir and not raw.is_dir():
        mistakes.append(f"--raw_data_dir {raw}: there is no such folder")
    elif not (raw / llm_toys.SOURCE.files["train"]).is_file():
        mistakes.append(f"{llm_toys.SOURCE.files['train']} is missing: it is in github.com/kuutsav/llm-toys; see --raw_data_dir")
    mistakes += wrong_seeds(arguments.seeds)
    most = arguments.composed_examples
    mistakes += [f"--compare_targets {n}: at most --composed_examples {most}" for n in arguments.compare_targets if n > most]
    if mistakes:
        raise UserError(*mistakes)
    start = time.monotonic()
    workspace = Workspace(Path(arguments.workspace))
    use_cache_without_network()
    base, source = smollm2.base_model(workspace), _main_source(arguments.main_task, raw, workspace)
    _prepare(arguments, workspace, base, raw, source)
    choice = _choice(arguments, base)
    steps = [step for step in make_steps(choice) if step.kind is not Kind.PREPARE]  # that is done
    with Engines(highest_rank=64) as engines:
        for number, step in enumerate(steps, start=1):
            print(f"\n[{number}/{len(steps)}] {step}", flush=True)
            run_experiment.run(list(step.words), engines)
    print(f"{_show(choice, workspace)}; {time.monotonic() - start:.0f} s")


def _main_source(main_task: str, raw: Path, workspace: Workspace) -> str | None:
    """The folder with the publishers' files of the main task; None for the hub's."""
    files, split_off = SOURCES[main_task]
    if all((raw / name).is_file() for name in files.values()):
        return str(raw)
    if not (raw / files["validation"]).is_file():
        return None
    return str(split_off(raw / files["validation"], workspace.root / "raw"))


def _sub_task(arguments: RealQuickstartArguments) -> SubTask:
    return SubTask("smollm2", find_task(arguments.main_task), find_task("tone_adjustment", arguments.tone))


def _prepare(arguments: RealQuickstartArguments, workspace: Workspace, base: str, raw: Path, main_source: str | None) -> None:
    """Make the single-task sets, train the rewriter's adapter, and make the composed set."""
    sub_task, rewriter_adapter = _sub_task(arguments), f"{arguments.tone}_rewriter_lora"
    main, auxiliary, composed = sub_task.main_set, sub_task.auxiliary_set, sub_task.composed_set
    here = f"--workspace {shlex.quote(str(workspace.root))} --length_models {shlex.quote(base)}"
    source = f"--raw_data_dir {shlex.quote(main_source)}" if main_source else ""
    _prepare_sets(f"--only {main} {source} {here}")
    _prepare_sets(f"--only {auxiliary} --raw_data_dir {shlex.quote(str(raw))} {here}")
    shape = "--lora_rank 8 --lora_dropout 0 --seed 7"
    budget = "--learning_rate 1e-3 --batch_size 16 --gradient_accumulation_steps 1 --report_to none"
    words = (
        f"--model_name_or_path {shlex.quote(base)} --experiment_name {rewriter_adapter} --stored_model_name {rewriter_adapter} "
        f"--dataset {auxiliary} --do_train {shape} {budget} --workspace {shlex.quote(str(workspace.root))}"
    )
    print(f"\npython run_experiment.py {words}", flush=True)
    run_experiment.run(shlex.split(words))
    rewriter = f"--tone_rewriter chat --tone_rewriter_model {shlex.quote(base)}"
    adapter = f"--tone_rewriter_adapter {shlex.quote(str(workspace.stored_model(rewriter_adapter)))}"
    _prepare_sets(
        f"--only {composed} --max_train_examples {arguments.composed_examples} {rewriter} {adapter} {source} {here}",
    )


def _prepare_sets(words: str) -> None:
    print(f"\nbash prepare_compositional_task_data.sh {words}", flush=True)
    preparation.run(shlex.split(words))


def _choice(arguments: RealQuickstartArguments, base: str) -> Choice:
    composed = arguments.composed_examples
    size = f"--batch_size {arguments.batch_size} --max_test_examples {arguments.test_examples}"
    last = f"{size} --max_new_tokens {NEW_TOKENS[arguments.main_task]} --prediction_backend {arguments.prediction_backend}"
    single_task = {
        "single_task": f"--max_train_examples {arguments.main_examples}",
        "tone_adapter": f"--max_train_examples {arguments.tone_examples}",
    }
    own = {"learned": f"--num_examples_merge {composed}", "joint_expert": f"--max_train_examples {composed}"}
    profile = replace(
        SMOLLM2,
        **single_task,
        last=last,
        own=own,
        calibration_examples=tuple(arguments.compare_targets),
        usual_calibration_examples=composed,
        usual_updates=math.ceil(composed / arguments.batch_size),
    )
    rows, names = [row for row in ROWS if row.name in arguments.methods], {row.name for row in ROWS}
    return Choice(
        profile,
        models={"": base},
        sub_tasks=[_sub_task(arguments)],
        rows=[*rows, *(row for row in ablations(profile)["calibration_targets"].rows if row.name not in names)],
        seeds=arguments.seeds,
        judged=False,
        workspace=arguments.workspace,
    )


def _show(choice: Choice, workspace: Workspace) -> Path:
    """Write and print the table, and ten examples side by side; returns where they are."""
    from compositional.prediction.predict import read_predictions
    from compositional.report.collect import collect
    from compositional.report.formats import to_markdown
    from compositional.report.table import make_table
    from compositional.scoring.bootstrap import Resampler

    all_cells = cells(choice)
    outcomes = collect(all_cells, workspace, "test", "")
    count = len(outcomes[0].ids)
    setting = (
        f"{choice.sub_tasks[0].name} by SmolLM2-135M-Instruct, {count} test examples; seeds of everything that is trained: "
        f"{', '.join(map(str, choice.seeds))}. {NOTE}"
    )
    table = make_table("SmolLM2", setting, all_cells, outcomes, choice.reference, Resampler(10_000, 0))
    text = to_markdown(table)
    first_cells = {cell.label: cell for cell in reversed(all_cells)}
    outputs = {
        label: read_predictions(workspace.predictions(first_cells[label].experiment, "test"))
        for label in dict.fromkeys(cell.label for cell in all_cells)
    }
    first = next(iter(outputs.values()))
    for place in range(0, count, max(1, count // 10)):
        lines = [f"- {label}: {predictions[place].output}" for label, predictions in outputs.items()]
        text += f"\n**{first[place].input}**\n\n" + "\n".join([f"- target: {first[place].reference}", *lines]) + "\n"
    path = workspace.root / "output" / f"real_quickstart_{choice.sub_tasks[0].name}.md"
    write_text(path, text)
    print(f"\n{text}")
    return path


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
