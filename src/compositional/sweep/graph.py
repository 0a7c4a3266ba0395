"""The graph behind a table: its steps, what each needs, and which of them run in one process."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from compositional.experiment.arguments import Arguments
from compositional.sweep.benchmarks import Profile, SubTask
from compositional.sweep.rows import TableRow, row_flags, shared_flags, shared_name
from compositional.sweep.selection import Choice, seeds_of
from compositional.sweep.steps import Artefact, Contents, Kind, Step

_ADD_UP = {f"--{field.name}" for field in fields(Arguments) if field.metadata["repeatable"]}


def make_steps(choice: Choice) -> list[Step]:
    """All steps, each after those that it needs."""
    steps = [] if choice.profile.benchmark == "pocket" else [_preparation(choice)]
    for suffix, model in choice.models.items():
        graph = _ModelGraph(choice, suffix, model)
        experiments = [*graph.single_task_trainings(), *graph.table_rows(), *graph.shared_calibrations()]
        judged = [step for step in experiments if choice.judged and step.predicts]
        steps += [*experiments, *(_judging(choice, step, f"judge{choice.naming(suffix).suffix}") for step in judged)]
    return steps


def _preparation(choice: Choice) -> Step:
    """Preparing the paper's sets; Pocket's are made as they are read."""
    sets = list(dict.fromkeys(name for one in choice.sub_tasks for name in _sets(one)))
    words = ("--workspace", choice.workspace, *choice.profile.flags("data"), "--only", *sets)
    return Step(Kind.PREPARE, "", words, "data", makes=tuple(Artefact(Contents.DATA_SET, name) for name in sets))


def _sets(sub_task: SubTask) -> tuple[str, ...]:
    return (sub_task.main_set, sub_task.auxiliary_set, sub_task.composed_set)


def _judging(choice: Choice, step: Step, group: str) -> Step:
    flags = (*choice.profile.flags("judge"), "--workspace", choice.workspace)
    needs, makes = Artefact(Contents.PREDICTIONS, step.experiment), Artefact(Contents.VERDICTS, step.experiment)
    return Step(Kind.JUDGE, step.experiment, flags, group, (needs,), (makes,))


@dataclass(frozen=True)
class _ModelGraph:
    """The experiments with one base model, whose names end with `suffix`, and behind it the seed."""

    choice: Choice
    suffix: str
    model: str | None

    def single_task_trainings(self) -> list[Step]:
        """Training of each single-task adapter that a sub-task needs, with each seed."""
        profile, steps = self.choice.profile, []
        sets = dict.fromkeys(name for one in self.choice.sub_tasks for name in (one.main_set, one.auxiliary_set))
        tones = {one.auxiliary_set for one in self.choice.sub_tasks if one.auxiliary.name == "tone_adjustment"}
        for seed in self.choice.seeds:
            for name in sets:
                adapter = self.choice.naming(self.suffix, seed).adapter(name)
                budget = [*profile.flags("single_task", profile.tone_adapter if name in tones else ""), *_seed_flags(seed)]
                names = ["--experiment_name", adapter, "--dataset", name, "--stored_model_name", adapter]
                flags = [*names, "--do_train", *budget]
                steps.append(self._experiment(Kind.TRAIN, adapter, flags, [name], predicts=False))
        return steps

    def table_rows(self) -> list[Step]:
        """Every row of one sub-task after the other."""
        steps = []
        for one in self.choice.sub_tasks:
            for row in self.choice.rows:
                for seed in seeds_of(row, self.choice):
                    naming = self.choice.naming(self.suffix, seed)
                    own_seed = _seed_flags(seed) if row.kind in (Kind.TRAIN, Kind.LEARN) else []
                    flags = [*row_flags(row, one, naming), *_budget(self.choice.profile, row), *own_seed]
                    in_one_process = self.choice.profile.one_process or not (row.trains or row.learns)
                    name, adapters = naming.experiment(one, row.name), row.adapters(one, naming)
                    group = f"{one.name}{naming.suffix}" if in_one_process else name
                    steps.append(self._experiment(row.kind, name, flags, _sets(one), adapters, group))
        return steps

    def shared_calibrations(self) -> list[Step]:
        """For each shared calibration and seed, the experiment that learns it, and those that take it over, in its process."""
        profile, steps = self.choice.profile, []
        sub_tasks = self.choice.sub_tasks
        for calibration in self.choice.shared:
            budget = profile.flags("learned", profile.by_row.get(f"shared_{calibration}_merge", ""))
            for seed in self.choice.seeds:
                naming = self.choice.naming(self.suffix, seed)
                learned, *taken = shared_flags(calibration, sub_tasks, naming)
                first, *others = (naming.experiment(one, shared_name(calibration, sub_tasks)) for one in sub_tasks)
                pairs = [[naming.adapter(one.main_set), naming.adapter(one.auxiliary_set)] for one in sub_tasks]
                sets = [name for one in sub_tasks for name in _sets(one)]
                adapters = [adapter for pair in pairs for adapter in pair]
                steps.append(self._experiment(Kind.LEARN, first, [*learned, *budget, *_seed_flags(seed)], sets, adapters))
                for one, name, flags, pair in zip(sub_tasks[1:], others, taken, pairs[1:], strict=True):
                    steps.append(self._experiment(Kind.MERGE, name, flags, _sets(one), [*pair, first], first))
        return steps

    def _experiment(
        self,
        kind: Kind,
        name: str,
        flags: Sequence[str],
        sets: Iterable[str],
        adapters: Iterable[str] = (),
        group: str = "",
        predicts: bool = True,
    ) -> Step:
        """An experiment that reads `sets` and stored `adapters`."""
        profile = self.choice.profile
        model = ["--model_name_or_path", self.model] if self.model and kind is Kind.TRAIN else []
        predict = ["--do_predict"] if predicts else []
        asked = [*shlex.split(profile.common), *model, *flags, *predict, *shlex.split(profile.last)]
        words = (*_without_overruled(asked), "--workspace", self.choice.workspace)
        prepared = [] if profile.benchmark == "pocket" else list(dict.fromkeys(sets))
        needs = [Artefact(Contents.DATA_SET, one) for one in prepared]
        needs += [Artefact(Contents.ADAPTER, one) for one in dict.fromkeys(adapters)]
        contents = [Contents.ADAPTER] * kind.stores_adapter + [Contents.PREDICTIONS] * predicts
        return Step(kind, name, words, group or name, tuple(needs), tuple(Artefact(one, name) for one in contents))


def _without_overruled(words: list[str]) -> list[str]:
    """A command without the flags that stand there again later, which count more; those that add up stay."""
    flags: list[list[str]] = []
    for word in words:
        if word.startswith(("--", "@")):
            flags.append([])
        flags[-1].append(word)
    names = [one[0].split("=")[0] for one in flags]
    kept = [one for number, one in enumerate(flags) if names[number] in _ADD_UP or names[number] not in names[number + 1 :]]
    return [word for one in kept for word in one]


def _seed_flags(seed: int) -> list[str]:
    """A seed changes where an adapter's training starts, and which examples are seen in which order."""
    return ["--seed", str(seed), "--data_seed", str(42 + seed)] if seed else []


def _budget(profile: Profile, row: TableRow) -> list[str]:
    specific = profile.by_row.get(row.like or row.name, "")
    if row.trains or row.learns:
        return [*profile.flags("joint_expert" if row.trains else "learned", specific), *shlex.split(row.setting)]
    return shlex.split(specific)
