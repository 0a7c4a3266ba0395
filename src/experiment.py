"""One experiment: its stages in order, each of which is skipped when an earlier run has finished it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.adapters.peft_folder import WEIGHTS_FILE, hash_of_adapter, highest_rank
from src.calibration import FILE as CALIBRATION_FILE
from src.engine.pool import Engines
from src.errors import UserError
from src.files import folder_in_the_making, read_json, write_json
from src.loading import Examples, ExperimentData
from src.logs import log_file
from src.methods import CALIBRATION, JOINT_EXPERT, MERGE, MULTI_STEP, ZERO_SHOT
from src.plan import Plan
from src.prediction import Prediction, PredictionSettings
from src.processes import is_main_process
from src.prompts import instruction
from src.records import Cost, Journal, device, results_record
from src.resume import (
    RECORD_FILE,
    SETTINGS_FILE,
    differences,
    settings_of_adapter,
    settings_of_earlier_predictions,
    settings_of_predictions,
)
from src.scoring.score import Scores
from src.settings import calibration_spec, lora_settings, optimization_settings, prediction_settings
from src.tensor_files import count_parameters
from src.training import TrainingFolders

if TYPE_CHECKING:
    from src.prediction.predict import Generator

logger = logging.getLogger(__name__)


@dataclass
class Experiment:
    """An experiment under way: what it is to do, with which data, and what it has found."""

    plan: Plan
    data: ExperimentData
    journal: Journal
    engines: Engines
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.plan.arguments.experiment_name

    @property
    def adapter_folder(self) -> Path | None:
        """The adapter that predictions are made with; None for the base model alone."""
        if self.plan.method == ZERO_SHOT:
            return None
        return self.plan.workspace.stored_model(self.plan.written_adapter or self.plan.arguments.stored_model_name)

    def train(self) -> None:
        """Train the LoRA adapter (a joint expert's included) and store it."""
        if not self.plan.arguments.do_train or self._is_stored():
            return
        from src.training.lora import train_lora

        with self.journal.timed("train"):
            model, tokenizer, sequences = self._model_and_sequences(self.data.training)
            adapter, report = train_lora(
                model,
                self.plan.base.name,
                sequences,
                tokenizer.pad_token_id,
                lora_settings(self.plan),
                optimization_settings(self.plan),
                self._training_folders(),
                f"{self.name}: train",
            )
            if is_main_process():
                self._store(adapter, asdict(report) | self._truncation(sequences))

    def merge(self) -> None:
        """Merge the stored adapters by a strategy and store the result."""
        if self.plan.method != MERGE or self._is_stored() or not is_main_process():
            return
        with self.journal.timed("merge"):
            merged = self._merged()
            self._store(merged, merged.report)

    def calibrate(self) -> None:
        """Merge the stored adapters, learn a calibration of the merge, and store both as one."""
        if self.plan.method != CALIBRATION or self._is_stored():
            return
        from src.training.calibration import train_calibration

        with self.journal.timed("calibrate"):
            merged = self._merged()
            model, tokenizer, sequences = self._model_and_sequences(self.data.training)
            calibration, report = train_calibration(
                model,
                merged,
                calibration_spec(self.plan),
                sequences,
                tokenizer.pad_token_id,
                optimization_settings(self.plan),
                self._training_folders(),
                f"{self.name}: calibrate",
            )
            if is_main_process():
                record = asdict(report) | self._truncation(sequences) | merged.report
                self._store(calibration.fold_into(merged), record, calibration)

    def predict(self) -> None:
        """Predict each asked split, in one pass, or in two for multi-step usage."""
        if self.data.stages:
            self._guard_predictions()
        for stage, examples in self.data.stages.items():
            with self.journal.timed(f"predict_{stage}"):
                if self.plan.method == MULTI_STEP:
                    self.predictions[stage] = self._predict_in_two_steps(stage, examples)
                else:
                    asked = instruction(examples.dataset.tasks, self.plan.arguments.prompt_style)
                    path = self.plan.workspace.predictions(self.name, stage)
                    self.predictions[stage] = self._predict(path, examples.chosen, asked, self.adapter_folder, stage)

    def score(self) -> None:
        """Score the predictions of each split."""
        from src.scoring.score import choose_tokenizer, score

        arguments = self.plan.arguments
        for stage, predictions in self.predictions.items():
            tokenizer = choose_tokenizer(arguments.rouge_tokenizer, self.plan.task_set.language)
            headline = self.plan.task_set.main_task.headline_metric
            self.scores[stage] = score(predictions, headline, tokenizer, arguments.bootstrap_resamples, arguments.seed)

    def record(self) -> dict[str, Any]:
        """Write results.json, the last thing an experiment does."""
        arguments, path = self.plan.arguments, self.plan.workspace.results(self.name)
        earlier = read_json(path) if path.is_file() else {"stages": {}, "training": None, "settings": {}}
        training = earlier["training"]
        if self.plan.written_adapter:
            training = read_json(self.plan.workspace.stored_model(self.plan.written_adapter) / RECORD_FILE)["report"]
        results = results_record(
            experiment=self.name,
            method=arguments.calibrate or arguments.lora_merge_strategy or self.plan.method,
            journal=self.journal,
            cost=self._cost(),
            scores=self.scores,
            predictions=self.predictions,
            training=training,
            arguments=arguments,
            settings=earlier["settings"] | settings_of_adapter(self.plan, self.data) | self._settings_of_predictions(),
            available={stage: examples.available for stage, examples in self.data.stages.items()},
        )
        settings_path = self.plan.workspace.predictions_folder(self.name) / SETTINGS_FILE
        used = [*self.data.stages.values(), *([self.data.training] if self.data.training else [])]
        results["data"] = earlier.get("data", {}) | {one.dataset.name: one.provenance for one in used}
        results["predictions_made_by"] = read_json(settings_path).get("made_by", {}) if settings_path.is_file() else {}
        results["stages"] = earlier["stages"] | results["stages"]
        write_json(path, results)
        return results

    def _settings_of_predictions(self) -> dict[str, Any]:
        """With the adapter that the predictions are made with, which may have been made by this experiment."""
        settings = settings_of_predictions(self.plan, self.data)
        return settings | ({"hash_of_adapter": hash_of_adapter(self.adapter_folder)} if self.adapter_folder else {})

    def _guard_predictions(self) -> None:
        """Leave the settings beside the predictions; raises UserError when earlier ones were made with other settings."""
        path = self.plan.workspace.predictions_folder(self.name) / SETTINGS_FILE
        earlier, now = settings_of_earlier_predictions(path.parent), self._settings_of_predictions()
        if mistakes := differences(f"predictions of {self.name}", earlier, now):
            raise UserError(*mistakes)
        write_json(path, earlier | now)

    def _predict_in_two_steps(self, stage: str, examples: Examples) -> list[Prediction]:
        """The main task's adapter answers first; its answers are the auxiliary task's inputs."""
        from src.prediction.predict import join_steps, read_predictions

        path = self.plan.workspace.predictions(self.name, stage)
        if path.is_file():
            return read_predictions(path)
        arguments, tasks = self.plan.arguments, examples.dataset.tasks
        step_paths = [path.with_name(f"{stage}.step{number}.jsonl") for number in (1, 2)]
        folders = [
            self.plan.workspace.stored_model(n) for n in (arguments.stored_model_name, arguments.secondary_stored_model_name)
        ]
        self.engines.expect_rank(max(map(highest_rank, folders)))
        first = self._predict(step_paths[0], examples.chosen, instruction(tasks[:1]), folders[0], f"{stage}, step 1")
        between = [replace(example, input=one.output) for example, one in zip(examples.chosen, first, strict=True)]
        second = self._predict(step_paths[1], between, instruction(tasks[1:]), folders[1], f"{stage}, step 2")
        return join_steps(path, examples.chosen, first, second)

    def _predict(self, path: Path, examples: list, asked: str, adapter: Path | None, description: str) -> list[Prediction]:
        from src.prediction.backends import make_generator
        from src.prediction.predict import predict_split

        base, settings = self.plan.base, prediction_settings(self.plan)

        log_path = log_file(self.plan.workspace.logs(self.name))

        def start() -> Generator:
            self._note_generator(path.stem, settings)
            return make_generator(base, adapter, settings, self.engines, log_path)

        return predict_split(path, examples, asked, base, settings, start, f"{self.name}: {description}")

    def _note_generator(self, part: str, settings: PredictionSettings) -> None:
        """Leave beside the predictions what made them last; another machine may go on with them."""
        path = self.plan.workspace.predictions_folder(self.name) / SETTINGS_FILE
        earlier = read_json(path)
        made_by = earlier.get("made_by", {}) | {part: {"backend": settings.backend, "dtype": settings.dtype, "device": device()}}
        write_json(path, earlier | {"made_by": made_by})

    def _model_and_sequences(self, training: Examples) -> tuple[Any, Any, list]:
        import torch
        from tqdm import tqdm

        from src.encoding import ChatEncoder

        arguments, tokenizer = self.plan.arguments, self.plan.base.tokenizer()
        asked = instruction(training.dataset.tasks, arguments.prompt_style)
        encoder = ChatEncoder(tokenizer)
        sequences = [
            encoder.training_sequence(asked, example, arguments.max_length, arguments.train_on_source)
            for example in tqdm(training.chosen, desc=f"{self.name}: tokens", delay=2)
        ]
        self.engines.make_room()
        return self.plan.base.load(torch.float32), tokenizer, sequences

    def _merged(self) -> Any:
        from src.adapters.peft_folder import read_adapter
        from src.merging import merge

        adapters = [read_adapter(self.plan.workspace.stored_model(name)) for name in self.plan.adapters]
        arguments = self.plan.arguments
        return merge(arguments.lora_merge_strategy, adapters, arguments.lora_merge_weights, self.plan.merge_options)

    def _training_folders(self) -> TrainingFolders:
        checkpoints = self.plan.workspace.training(self.plan.written_adapter)
        if is_main_process():
            write_json(checkpoints / SETTINGS_FILE, settings_of_adapter(self.plan, self.data))
        return TrainingFolders(checkpoints, self.plan.workspace.logs(self.name))

    def _truncation(self, sequences: list) -> dict[str, int]:
        return {"truncated_training_examples": sum(sequence.truncated for sequence in sequences)}

    def _is_stored(self) -> bool:
        """Whether an earlier run of this experiment has stored the adapter."""
        folder = self.plan.workspace.stored_model(self.plan.written_adapter)
        if stored := (folder / RECORD_FILE).is_file():
            logger.info("%s is stored already", folder)
            shutil.rmtree(self.plan.workspace.training(self.plan.written_adapter), ignore_errors=True)
        return stored

    def _store(self, adapter: Any, report: dict[str, Any], calibration: Any = None) -> None:
        """Write the adapter's folder as a whole, then drop the checkpoints."""
        from src.adapters.peft_folder import write_adapter

        dtype, name = self.plan.arguments.adapter_dtype, self.plan.written_adapter
        settings = settings_of_adapter(self.plan, self.data)
        with folder_in_the_making(self.plan.workspace.stored_model(name)) as folder:
            write_adapter(folder, adapter, dtype)
            if calibration is not None:
                calibration.write(folder, dtype)
            write_json(folder / RECORD_FILE, {"experiment": self.name, "settings": settings, "report": report})
        logger.debug("stored %s: %s", name, report)
        shutil.rmtree(self.plan.workspace.training(name), ignore_errors=True)

    def _cost(self) -> Cost:
        """What the method needs on a device beyond the base model and one adapter per single task, measured from the files."""
        if self.plan.method == MULTI_STEP:
            return Cost(inferences_per_example=2)
        extra_file = {JOINT_EXPERT: WEIGHTS_FILE, CALIBRATION: CALIBRATION_FILE}.get(self.plan.method)
        if not extra_file:
            return Cost()
        path = self.adapter_folder / extra_file
        return Cost(extra_parameters=count_parameters(path), extra_bytes=path.stat().st_size)
