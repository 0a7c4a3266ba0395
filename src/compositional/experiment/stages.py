"""A running experiment: its locks, its log, and its stages in order. Finished stages are skipped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.adapters.peft_folder import CALIBRATION_FILE, LEARNED_FILE, WEIGHTS_FILE, StoredAdapter
from compositional.core.errors import UserError
from compositional.core.files import count_parameters, hash_of_files
from compositional.core.logs import log_file, log_to_file, quieten_libraries
from compositional.core.machine import device
from compositional.core.processes import is_main_process, wait_for_all_processes
from compositional.core.recorded import ARITHMETIC, versions_behind, write_record
from compositional.core.resumable import has_rows
from compositional.experiment.adapter import AdapterMaker
from compositional.experiment.arguments import CALIBRATION, JOINT_EXPERT, MERGE, MULTI_STEP, ZERO_SHOT
from compositional.experiment.examples import Examples, ExperimentData, demonstrations
from compositional.experiment.plan import Plan
from compositional.experiment.preflight import check_before_start
from compositional.experiment.results import Cost, Journal, results_record
from compositional.experiment.resume import (
    ADAPTER_RECORD,
    HASHES,
    SETTINGS_FILE,
    check_resumable,
    differences,
    read_adapter_record,
    read_results,
    read_settings_of_predictions,
    settings_of_adapter,
    settings_of_earlier_predictions,
    settings_of_predictions,
    throw_away,
    versions_behind_adapters,
)
from compositional.prediction import Prediction, PredictionSettings
from compositional.prediction.vllm_backend import Engines
from compositional.scoring.score import Scores

if TYPE_CHECKING:
    from compositional.prediction.predict import Generator

logger = logging.getLogger(__name__)


def _in_words(made_by: dict[str, Any]) -> str:
    server = made_by.get("server") or {}
    return " ".join(
        str(one) for one in (made_by.get("backend"), made_by.get("dtype"), server.get("model") or made_by.get("device"))
    )


@contextmanager
def open_experiment(plan: Plan, data: ExperimentData, engines: Engines) -> Iterator[Experiment]:
    """Open an experiment's locks and log; raises UserError before anything is written when the experiment can't run."""
    quieten_libraries()
    check_resumable(plan, data)
    check_before_start(plan, data)
    name, written = plan.arguments.experiment_name, plan.written_adapter
    locks = plan.workspace.locked(experiment=name, stored_model=written) if is_main_process() else nullcontext()
    with locks:
        if is_main_process():
            # Another run may have ended since the first look.
            check_resumable(plan, data)
            if plan.arguments.overwrite:
                throw_away(plan)
        wait_for_all_processes()
        with log_to_file(plan.workspace.logs(name)) if is_main_process() else nullcontext():
            logger.debug("arguments: %s", json.dumps(asdict(plan.arguments), ensure_ascii=False))
            yield Experiment(plan, data, Journal.open(plan.workspace.output(name) / "seconds.json"), engines)


@dataclass
class Experiment:
    """A running experiment: its plan, its data, and its predictions and scores so far."""

    plan: Plan
    data: ExperimentData
    journal: Journal
    engines: Engines
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.plan.arguments.experiment_name

    @cached_property
    def answering_adapters(self) -> list[StoredAdapter]:
        """The adapters to predict with, one per step; empty for the base model alone. Use this after `make_adapter`."""
        plan = self.plan
        return [plan.adapters.get(name) or StoredAdapter(plan.workspace.stored_model(name)) for name in plan.answering_adapters]

    def make_adapter(self) -> None:
        """Train, merge or calibrate, if this experiment makes an adapter."""
        AdapterMaker(self.plan, self.data, self.journal, self.engines).make()

    def predict(self) -> None:
        """Predict each requested split, in one pass, or for multi-step usage in one pass per task."""
        if self.data.stages:
            self._guard_predictions()
        for stage, examples in self.data.stages.items():
            with self.journal.timed(f"predict_{stage}"):
                if self.plan.method == MULTI_STEP:
                    self.predictions[stage] = self._predict_in_steps(stage, examples)
                else:
                    (request,) = self.plan.requests
                    path = self.plan.workspace.predictions(self.name, stage)
                    adapter = next(iter(self.answering_adapters), None)
                    self.predictions[stage] = self._predict(path, examples.chosen, request, adapter, stage)
                self._note_files(stage)

    def score(self) -> None:
        """Score the predictions of each split."""
        from compositional.scoring.score import choose_tokenizer, score

        arguments = self.plan.arguments
        for stage, predictions in self.predictions.items():
            tokenizer = choose_tokenizer(arguments.rouge_tokenizer, self.plan.task_set.language)
            headline = self.plan.task_set.main_task.headline_metric
            path = self.plan.workspace.scores(self.name, stage)
            self.scores[stage] = score(predictions, headline, tokenizer, arguments.bootstrap_resamples, arguments.seed, path)

    def record(self) -> dict[str, Any]:
        """Write results.json, as the last step of an experiment."""
        arguments, path = self.plan.arguments, self.plan.workspace.results(self.name)
        earlier = read_results(path) if path.is_file() else {"stages": {}, "settings": {}}
        training = earlier.get("training")
        if self.plan.written_adapter:
            training = read_adapter_record(self.plan.workspace.stored_model(self.plan.written_adapter))["report"]
        results = results_record(
            experiment=self.name,
            method=self._label(),
            journal=self.journal,
            cost=self._cost(),
            scores=self.scores,
            predictions=self.predictions,
            training=training,
            arguments=arguments,
            settings=earlier["settings"] | settings_of_adapter(self.plan, self.data) | self._settings_of_predictions(),
            available={stage: examples.available for stage, examples in self.data.stages.items()},
        )
        settings_folder = self.plan.workspace.predictions_folder(self.name)
        used = [*self.data.stages.values(), *self.data.training, *([self.data.solved] if self.data.solved else [])]
        results["data"] = earlier.get("data", {}) | {one.dataset.name: one.provenance for one in used}
        results["predictions_made_by"] = read_settings_of_predictions(settings_folder).get("made_by", {})
        for stage, found in results["stages"].items():
            found["hash_of_scores"] = hash_of_files([self.plan.workspace.scores(self.name, stage)])
        results["stages"] = earlier["stages"] | results["stages"]
        versions = set(versions_behind_adapters(self.plan, self.answering_adapters))
        results["arithmetic"] = sorted(versions.union(*map(versions_behind, results["predictions_made_by"].values())))
        write_record(path, results)
        return results

    def _label(self) -> str:
        """The name of the method in the results."""
        arguments = self.plan.arguments
        label = arguments.calibrate or arguments.lora_merge_strategy or self.plan.method
        if arguments.in_context_examples:
            return "in_context_learning" if self.plan.method == ZERO_SHOT else f"{label}+in_context_learning"
        if self.plan.makes_targets:
            return f"{label}+multi_step_targets"
        return f"shared_{label}" if self._is_shared() else label

    def _is_shared(self) -> bool:
        """Whether the calibration was learned for several compositional tasks, here or by --stored_calibration's experiment."""
        if not self.plan.calibration_source:
            return self.plan.calibrates and len(self.plan.merge_sets) > 1
        record = self.plan.calibration_source.folder / ADAPTER_RECORD
        return record.is_file() and len(read_adapter_record(record.parent)["settings"].get("merge_datasets") or []) > 1

    def _settings_of_predictions(self) -> dict[str, Any]:
        """The settings of the predictions, with the hash of the adapter, which may have been made by this experiment."""
        settings = settings_of_predictions(self.plan, self.data)
        return settings | ({"hash_of_adapter": self.answering_adapters[0].hash} if self.answering_adapters else {})

    def _guard_predictions(self) -> None:
        """Record the settings beside the predictions; raises UserError when existing predictions have other settings."""
        path = self.plan.workspace.predictions_folder(self.name) / SETTINGS_FILE
        earlier, now = settings_of_earlier_predictions(path.parent), self._settings_of_predictions()
        if mistakes := differences(self.plan, f"predictions of {self.name}", earlier, now):
            raise UserError(*mistakes)
        # Files that are no longer there are made again, perhaps by another machine with other texts.
        hashes = {name: found for name, found in earlier.get(HASHES, {}).items() if (path.parent / name).is_file()}
        write_record(path, earlier | now | {HASHES: hashes})

    def _predict_in_steps(self, stage: str, examples: Examples) -> list[Prediction]:
        """Predict with the main task's adapter, then pass its outputs as inputs to the first auxiliary task's, and so on."""
        from compositional.prediction.predict import join_steps, read_predictions

        path = self.plan.workspace.predictions(self.name, stage)
        if path.is_file():
            return read_predictions(path)
        self.engines.expect_rank(max(adapter.rank for adapter in self.answering_adapters))
        steps: list[list[Prediction]] = []
        for number, (request, adapter) in enumerate(zip(self.plan.requests, self.answering_adapters, strict=True), start=1):
            inputs = examples.chosen
            if steps:
                inputs = [replace(example, input=one.output) for example, one in zip(inputs, steps[-1], strict=True)]
            step_path = path.with_name(f"{stage}.step{number}.jsonl")
            steps.append(self._predict(step_path, inputs, request, adapter, f"{stage}, step {number}"))
        return join_steps(path, examples.chosen, steps)

    def _predict(
        self, path: Path, examples: list, request: str, adapter: StoredAdapter | None, description: str
    ) -> list[Prediction]:
        from compositional.models.chat import ChatEncoder
        from compositional.prediction import make_generator
        from compositional.prediction.predict import predict_split

        base = self.plan.base
        encoder = ChatEncoder(base.tokenizer, demonstrations(self.plan, self.data))
        settings = self.plan.prediction(encoder.demonstrations_length)
        log_path = log_file(self.plan.workspace.logs(self.name))

        def start() -> Generator:
            generator = make_generator(base, adapter, settings, self.engines, log_path)
            self._note_generator(path.stem, settings, generator)
            return generator

        return predict_split(path, examples, request, encoder, settings, start, f"{self.name}: {description}")

    def _note_generator(self, part: str, settings: PredictionSettings, generator: Generator) -> None:
        """Record beside the predictions the backend, precision and device of this run.

        Another machine may continue them: what the rows so far were made with is kept under "after", the latest first.
        """
        path = self.plan.workspace.predictions_folder(self.name) / SETTINGS_FILE
        earlier = read_settings_of_predictions(path.parent)
        now = {"backend": settings.backend, "dtype": settings.dtype, "device": device(), "arithmetic": [ARITHMETIC]}
        now |= generator.made_with
        has_some = has_rows(path.with_name(f"{part}.jsonl"))
        if has_some and (before := earlier.get("made_by", {}).get(part)):
            after = before.pop("after", [])
            if before != now:
                logger.warning("%s, %s: begun by %s, goes on with %s", self.name, part, _in_words(before), _in_words(now))
                after = [before, *after]
            now |= {"after": after} if after else {}
        write_record(path, earlier | {"made_by": earlier.get("made_by", {}) | {part: now}})

    def _note_files(self, stage: str) -> None:
        """Record the hashes of a stage's finished files of predictions, by which a change is noticed."""
        folder = self.plan.workspace.predictions_folder(self.name)
        settings = read_settings_of_predictions(folder)
        files = [folder / f"{stage}.jsonl", *sorted(folder.glob(f"{stage}.step*.jsonl"))]
        hashes = {path.name: hash_of_files([path]) for path in files} | settings.get(HASHES, {})
        if hashes != settings.get(HASHES):
            write_record(folder / SETTINGS_FILE, settings | {HASHES: hashes})

    def _cost(self) -> Cost:
        """The cost of the method on a device, beyond the base model and one adapter per single task, measured from the files."""
        if self.plan.method == MULTI_STEP:
            return Cost(inferences_per_example=len(self.answering_adapters))
        names = {JOINT_EXPERT: [WEIGHTS_FILE], CALIBRATION: [LEARNED_FILE, CALIBRATION_FILE], MERGE: [LEARNED_FILE]}
        files = [one.folder / name for one in self.answering_adapters for name in names.get(self.plan.method, [])]
        existing = [path for path in files if path.is_file()]
        parameters, size = sum(map(count_parameters, existing)), sum(path.stat().st_size for path in existing)
        return Cost(extra_parameters=parameters, extra_bytes=size)
