"""Whether engines and precisions give the same texts, and what a precision costs in quality: method × engine × precision.

    python -m benchmarks.parity --workspace FOLDER --experiments ZERO_SHOT MULTI_STEP LC LC_PLUS_PLUS LC_PLUS_PLUS@16

Finished experiments answer the first inputs of their test split by each of `--ways`, an engine and a precision. `NAME@R` cuts an
experiment's merge to rank R. Prints two Markdown tables: how many texts equal those of the first way (those of the exact merge,
where it is asked for, too), and the mean of the headline metric with its 95 % interval over inputs. The second shows what a
quantized base costs, and what a rank does; an experiment whose calibration was learned with `--train_dtype q4_1` stands beside the
one learned in full precision. Below them stand the relative errors of merges that are cut, and the bytes of llama.cpp's file of the
base model.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.finished import Finished
from benchmarks.machine import heading
from compositional.core.errors import Mistakes, UserError
from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned
from compositional.data import Example
from compositional.experiment.examples import demonstrations, load_data
from compositional.formats.gguf import QUANTIZED, write_base
from compositional.models.chat import ChatEncoder
from compositional.prediction import LLAMA_CPP, PROMPTS_AT_A_TIME, TRANSFORMERS, VLLM, make_generator
from compositional.prediction.vllm_backend import Engines

if TYPE_CHECKING:
    from compositional.adapters.peft_folder import StoredAdapter
    from compositional.experiment.plan import Plan

logger = logging.getLogger(__name__)
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Way:
    """An engine and the precision of the model in it."""

    backend: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.backend} {self.dtype}"


@dataclass(frozen=True)
class Job:
    """A finished experiment, the adapters that it answers with, one per step, and the examples that it answers again."""

    name: str
    plan: Plan
    adapters: list[StoredAdapter]
    error_of_cut: float | None
    encoder: ChatEncoder
    examples: list[Example]


WAYS = {f"{backend}:{dtype}": Way(backend, dtype) for backend in (TRANSFORMERS, LLAMA_CPP, VLLM) for dtype in DTYPES}
WAYS |= {f"{LLAMA_CPP}:{dtype}": Way(LLAMA_CPP, dtype) for dtype in QUANTIZED}


def main(argv: list[str] | None = None) -> int:
    return exit_code_of(lambda: run(argv))


def run(argv: list[str] | None) -> None:
    """Let all experiments answer in all ways, and print the tables; raises UserError for the user's mistakes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--experiments", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--ways", nargs="+", default=["transformers:float32", "llama_cpp:float32"], choices=WAYS, metavar="WAY")
    parser.add_argument("--texts", type=int, default=250, help="of each experiment, at most")
    options = parser.parse_args(argv)
    mistakes = Mistakes()
    mistakes.when(options.texts < 1, f"--texts {options.texts}: must be at least 1")
    names, ways = list(dict.fromkeys(options.experiments)), [WAYS[name] for name in dict.fromkeys(options.ways)]
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        jobs = [mistakes.attempt(_job, name, options.workspace, options.texts, temporary) for name in names]
        if mistakes:
            raise UserError(*mistakes)
        with Engines(max((one.rank for job in jobs for one in job.adapters), default=0)) as engines:
            texts = {way: {job.name: _answers(job, way, engines, temporary) for job in jobs} for way in ways}
        sizes = _bytes_of_bases(jobs[0].plan, ways, temporary)
    print(f"\n{heading()}: up to {options.texts} texts of each experiment\n")
    print(f"Texts that equal those of {ways[0]}:\n\n{_table(jobs, ways, lambda job, way: _equal(job, texts[way], texts[ways[0]]))}")
    print(f"Headline metric, %:\n\n{_table(jobs, ways, lambda job, way: _headline(job, texts[way][job.name]))}")
    if cut := {job.name: job.error_of_cut for job in jobs if job.error_of_cut is not None}:
        print("Relative error of the cut: " + ", ".join(f"{name} {error:.3f}" for name, error in cut.items()))
    if sizes:
        print("Bytes of the base model: " + ", ".join(f"{dtype} {size:,}" for dtype, size in sizes.items()))


def _job(name: str, workspace: Path, texts: int, folder: Path) -> Job:
    experiment = Finished.named(name, workspace)
    plan, (adapters, error) = experiment.plan, experiment.adapters(folder)
    data = load_data(plan)
    if "test" not in data.stages:
        raise UserError(f"--experiments {name}: it has not predicted the test split")
    encoder = ChatEncoder(plan.base.tokenizer, demonstrations(plan, data))
    return Job(name, plan, adapters, error, encoder, data.stages["test"].chosen[:texts])


def _answers(job: Job, way: Way, engines: Engines, folder: Path) -> list[str]:
    """The experiment's answers, after its last step."""
    logger.info("%s: %s", way, job.name)
    settings = job.plan.prediction(job.encoder.demonstrations_length)
    settings = replace(
        settings, backend=way.backend, dtype=way.dtype, batch_size=PROMPTS_AT_A_TIME[way.backend], llama_cpp_url=None
    )
    texts = [one.input for one in job.examples]
    for request, adapter in zip(job.plan.requests, job.adapters or [None], strict=True):
        generator = make_generator(job.plan.base, adapter, settings, engines, folder / "run.log")
        prompts = {text: job.encoder.prompt(request, text, settings.max_prompt_length).ids for text in texts}
        longest_first = sorted(prompts, key=lambda text: -len(prompts[text]))
        said: dict[str, str] = {}
        for start in range(0, len(longest_first), settings.batch_size):
            batch = longest_first[start : start + settings.batch_size]
            answers = generator.answers([prompts[text] for text in batch])
            said |= {text: answer.text for text, answer in zip(batch, answers, strict=True)}
        texts = [said[text] for text in texts]
    return texts


def _equal(job: Job, texts: dict[str, list[str]], expected: dict[str, list[str]]) -> str:
    """How many texts equal the expected ones: those of the exact merge, where it is there beside one that is cut."""
    exact = job.name.partition("@")[0]
    pairs = list(zip(texts[job.name], expected.get(exact, expected[job.name]), strict=True))
    return f"{sum(one == other for one, other in pairs)} of {len(pairs)}"


def _headline(job: Job, texts: list[str]) -> str:
    from compositional.scoring.bootstrap import bootstrap_interval
    from compositional.scoring.score import choose_tokenizer, scores_per_example

    tokenizer = choose_tokenizer(job.plan.arguments.rouge_tokenizer, job.plan.task_set.language)
    found = scores_per_example(texts, [one.reference for one in job.examples])
    values = found[f"{job.plan.task_set.main_task.headline_metric}_{tokenizer}"]
    interval = bootstrap_interval(values, [one.input for one in job.examples], 1000, seed=0)
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _table(jobs: list[Job], ways: list[Way], cell) -> str:
    lines = [("experiment", *map(str, ways))]
    return aligned([*lines, *((job.name, *(cell(job, way) for way in ways)) for job in jobs)])


def _bytes_of_bases(plan: Plan, ways: list[Way], folder: Path) -> dict[str, int]:
    """Bytes of the base model as llama.cpp's file, by precision."""
    dtypes = [way.dtype for way in ways if way.backend == LLAMA_CPP]
    return {dtype: write_base(folder / f"{dtype}.gguf", plan.base, dtype, {})[0].stat().st_size for dtype in dtypes}


if __name__ == "__main__":
    sys.exit(main())
