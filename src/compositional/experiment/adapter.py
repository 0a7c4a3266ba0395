"""Makes the adapter that an experiment predicts with: by training, merging, or calibrating a merge."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from compositional.core.files import folder_in_the_making, remove
from compositional.core.processes import is_main_process, wait_for_all_processes
from compositional.core.recorded import ARITHMETIC, write_record
from compositional.experiment.arguments import CALIBRATION, MERGE
from compositional.experiment.examples import Examples, ExperimentData
from compositional.experiment.own_targets import with_multi_step_targets
from compositional.experiment.plan import Plan
from compositional.experiment.results import Journal
from compositional.experiment.resume import ADAPTER_RECORD, SETTINGS_FILE, settings_of_adapter, versions_behind_adapters
from compositional.formats.gguf import round_weights
from compositional.models.chat import instruction
from compositional.prediction.vllm_backend import Engines
from compositional.training import TrainingFolders

if TYPE_CHECKING:
    from compositional.adapters.lora import LoraAdapter
    from compositional.calibration.parameters import Calibration
    from compositional.models.chat import TrainingSequence

logger = logging.getLogger(__name__)


@dataclass
class AdapterMaker:
    """Makes and stores an experiment's adapter, unless an earlier run has stored it."""

    plan: Plan
    data: ExperimentData
    journal: Journal
    engines: Engines

    def make(self) -> None:
        """Make the adapter, if the experiment makes one."""
        if not self.plan.written_adapter or self._is_stored():
            return
        stage, make = {MERGE: ("merge", self._merge), CALIBRATION: ("calibrate", self._calibrate)}.get(
            self.plan.method, ("train", self._train)
        )
        # In a distributed run, all processes take part in training. Everything else is done by the main process.
        if not (is_main_process() or self.plan.arguments.do_train or self.plan.learns):
            return
        with self.journal.timed(stage):
            make()

    def _train(self) -> None:
        """Train a LoRA adapter, for a single task or as a joint expert."""
        from compositional.training.recipes import train_lora

        sequences = self._sequences(self.data.training[0])
        adapter, report = train_lora(
            self._model(),
            self.plan.base.name,
            sequences,
            self._pad_token_id,
            self.plan.lora,
            self.plan.optimization,
            self._training_folders(),
            f"{self._name}: train",
        )
        self._store(adapter, asdict(report) | _truncation(sequences))

    def _merge(self) -> None:
        """Merge the stored adapters by a strategy, which may learn from examples."""
        sequences = [self._sequences(examples) for examples in self.data.training]
        (merged,) = self._merges(self._model() if sequences else None, sequences)
        self._store(merged, merged.report | _truncation(*sequences))

    def _calibrate(self) -> None:
        """Merge the stored adapters, learn or load a calibration of the merge, and store both as one adapter."""
        from compositional.calibration.parameters import read_calibration

        sequences = [self._sequences(examples) for examples in self._calibration_examples()]
        model = self._model() if sequences else None
        merges = self._merges(model, sequences)
        own = merges[self.plan.own_merge]
        if self.plan.calibrates:
            calibration, report = self._learned_calibration(model, merges, sequences)
        else:
            shapes = {path: (factors.d_out, factors.d_in) for path, factors in own.factors.items()}
            calibration = read_calibration(self.plan.calibration_source.folder, shapes)
            report = {"calibration_of": self.plan.arguments.stored_calibration}
        merged = {"merge": own.report} if own.report else {}
        self._store(calibration.fold_into(own), report | merged | _truncation(*sequences), calibration)

    def _calibration_examples(self) -> list[Examples]:
        """The examples of each set to learn from, with targets of the adapters' own if the plan says so."""
        if not self.plan.makes_targets:
            return self.data.training
        folders = self._training_folders()
        if is_main_process():
            with self.journal.timed("targets"):
                with_multi_step_targets(self.plan, self.data.training[0], self.engines, folders.checkpoints)
        wait_for_all_processes()
        # The answers are there now, and every process reads them.
        return [with_multi_step_targets(self.plan, self.data.training[0], self.engines, folders.checkpoints)]

    def _learned_calibration(
        self, model: Any, merges: list[LoraAdapter], sequences: list[list[TrainingSequence]]
    ) -> tuple[Calibration, dict[str, Any]]:
        from compositional.training.recipes import train_calibration

        chosen = _by_adapter(sequences) if len(merges) > 1 else sequences[0]
        calibration, report = train_calibration(
            model,
            merges,
            self.plan.calibration,
            chosen,
            self._pad_token_id,
            self.plan.optimization,
            self._training_folders(),
            f"{self._name}: calibrate",
        )
        return calibration, asdict(report)

    def _merges(self, model: Any, sequences: list[list[TrainingSequence]]) -> list[LoraAdapter]:
        """The merge of each group of adapters. Several merges share one calibration."""

        arguments, merged = self.plan.arguments, []
        for number in range(len(self.plan.merges)):
            adapters = self.plan.read_adapters(number)
            chosen = _by_adapter(sequences) if self.plan.learns_single_tasks else sequences[number] if sequences else []
            examples = self._merge_examples(model, chosen, number) if self.plan.learns_merge else None
            merged.append(self.plan.strategy.merge(adapters, arguments.lora_merge_weights, self.plan.merge_options, examples))
        return merged

    def _merge_examples(self, model: Any, sequences: list[TrainingSequence], number: int) -> Any:
        from compositional.training.recipes import MergeExamples, SingleTaskExamples

        folders = self._training_folders()
        folders = replace(folders, checkpoints=folders.checkpoints / f"merge_{number}")
        # A calibration uses many examples, but the merge that it calibrates may learn from few.
        few = self.plan.strategy.num_examples if self.plan.calibrates else None
        settings = self.plan.optimization
        kind = SingleTaskExamples if self.plan.learns_single_tasks else MergeExamples
        return kind(model, sequences[:few], self._pad_token_id, settings, folders, f"{self._name}: merge")

    @property
    def _name(self) -> str:
        return self.plan.arguments.experiment_name

    @property
    def _pad_token_id(self) -> int:
        return self.plan.base.tokenizer.pad_token_id

    def _model(self) -> Any:
        import torch

        precision = self.plan.precision
        if self.plan.arguments.bf16 and not precision.autocast:
            logger.warning("--bf16: this CPU has no bfloat16 instructions, so the training is in float32")
        self.engines.make_room()
        model = self.plan.base.load(getattr(torch, precision.weights))
        if precision.rounded_to:
            round_weights(model, precision.rounded_to)
        return model

    def _sequences(self, training: Examples) -> list[TrainingSequence]:
        from tqdm import tqdm

        from compositional.models.chat import ChatEncoder

        arguments, encoder = self.plan.arguments, ChatEncoder(self.plan.base.tokenizer)
        tasks = self.plan.task_set.tasks if self.plan.makes_targets else training.dataset.tasks
        request = instruction(tasks, arguments.prompt_style)
        return [
            encoder.training_sequence(request, example, arguments.max_length, arguments.train_on_source)
            for example in tqdm(training.chosen, desc=f"{self._name}: tokens", delay=2)
        ]

    def _training_folders(self) -> TrainingFolders:
        checkpoints = self.plan.workspace.training(self.plan.written_adapter)
        if is_main_process():
            settings = settings_of_adapter(self.plan, self.data) | {"arithmetic": [ARITHMETIC]}
            write_record(checkpoints / SETTINGS_FILE, settings)
        return TrainingFolders(checkpoints, self.plan.workspace.logs(self._name))

    def _is_stored(self) -> bool:
        """Whether an earlier run of this experiment has stored the adapter. Its checkpoints are then deleted."""
        folder = self.plan.workspace.stored_model(self.plan.written_adapter)
        if stored := (folder / ADAPTER_RECORD).is_file():
            logger.info("%s is stored already", folder)
            remove(self.plan.workspace.training(self.plan.written_adapter))
        return stored

    def _store(self, adapter: LoraAdapter, report: dict[str, Any], calibration: Calibration | None = None) -> None:
        """Write the adapter's folder atomically, then delete the checkpoints."""
        from compositional.adapters.peft_folder import hash_of_adapter, write_adapter

        if not is_main_process():
            return
        if rank := self.plan.arguments.compact_rank:
            from compositional.adapters.low_rank import compacted

            compact = compacted(replace(adapter, report={}), rank)
            adapter, report = replace(compact, report=adapter.report), report | compact.report
        dtype, name = self.plan.arguments.adapter_dtype, self.plan.written_adapter
        settings = settings_of_adapter(self.plan, self.data)
        with folder_in_the_making(self.plan.workspace.stored_model(name)) as folder:
            write_adapter(folder, adapter, dtype)
            if calibration is not None:
                calibration.write(folder, dtype)
            record = {"experiment": self._name, "settings": settings, "report": report}
            record |= {"arithmetic": versions_behind_adapters(self.plan, []), "hash_of_adapter": hash_of_adapter(folder)}
            write_record(folder / ADAPTER_RECORD, record)
        logger.debug("stored %s: %s", name, report)
        remove(self.plan.workspace.training(name))


def _by_adapter(sequences: list[list[TrainingSequence]]) -> list[TrainingSequence]:
    """The sequences of all sets, each with the number of its set's merge or adapter."""
    return [replace(one, merge_index=number) for number, several in enumerate(sequences) for one in several]


def _truncation(*sets: list[TrainingSequence]) -> dict[str, int]:
    """The number of truncated training examples; empty without training examples."""
    return {"truncated_training_examples": sum(one.truncated for sequences in sets for one in sequences)} if sets else {}
