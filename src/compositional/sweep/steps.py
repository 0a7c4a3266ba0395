"""The graph behind a table: its commands, what each needs, and which of them run in one process."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields

from compositional.experiment.arguments import Arguments
from compositional.sweep.benchmarks import Profile
from compositional.sweep.methods import Method, Naming, method_flags, shared_flags
from compositional.sweep.selection import Choice, seeds_of

_ADD_UP = {f"--{field.name}" for field in fields(Arguments) if field.metadata["repeatable"]}


@dataclass(frozen=True)
class Step:
    """One command. `needs` are steps whose artefacts it reads; steps of a `group` run in one process and share its engine."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    group: str

    def __str__(self) -> str:
        return shlex.join(self.command)


def make_steps(choice: Choice) -> list[Step]:
    """All steps, each after those that it needs."""
    steps = _data_steps(choice)
    for suffix, model in choice.models.items():
        steps += _model_steps(choice, suffix, model, tuple(step.name for step in steps if step.group == "data"))
    return steps


def _data_steps(choice: Choice) -> list[Step]:
    """Preparing the paper's sets; Pocket's are made as they are read."""
    if choice.profile.benchmark == "pocket":
        return []
    sets = dict.fromkeys(name for one in choice.sub_tasks for name in (one.main_set, one.auxiliary_set, one.composed_set))
    words = ("bash", "prepare_compositional_task_data.sh", "--workspace", choice.workspace)
    words = (*words, *shlex.split(choice.profile.flags("data")))
    words = (*words, "--only", *sets)
    return [Step("data", words, (), "data")]


def _model_steps(choice: Choice, suffix: str, model: str | None, data: tuple[str, ...]) -> list[Step]:
    """The single-task adapters, the methods, the shared calibrations and the judge, with one base model."""
    profile, plain = choice.profile, choice.naming(suffix)
    steps: dict[str, Step] = {}

    def experiment(flags: str, group: str | None = None) -> str:
        """A step that needs the earlier ones that its command names."""
        named = f"--model_name_or_path {shlex.quote(model)}" if model and "--do_train" in flags else ""
        words = _without_overruled(shlex.split(f"{profile.common} {named} {flags} {profile.last}"))
        name = words[words.index("--experiment_name") + 1]
        needs = tuple(word for word in dict.fromkeys(words) if word in steps)
        command = ("python", "run_experiment.py", *words, "--workspace", choice.workspace)
        steps[name] = Step(name, command, needs or data, group or name)
        return name

    for flags in _single_task_flags(choice, plain):
        experiment(flags)
    for one in choice.sub_tasks:
        for method in choice.methods:
            for seed in seeds_of(method, choice):
                naming = choice.naming(suffix, seed)
                shared = profile.one_process or not (method.trains or method.learns)
                flags = f"{method_flags(method, one, naming, plain)} {_budget(profile, method)} {_seed_flags(seed)}"
                experiment(f"{flags} --do_predict", f"{one.name}{naming.suffix}" if shared else None)
    for calibration in choice.shared:
        budget = profile.flags("learned", profile.by_method.get(f"shared_{calibration}_merge", ""))
        for seed in choice.seeds:
            learned, *taken = shared_flags(calibration, choice.sub_tasks, choice.naming(suffix, seed), plain)
            first = experiment(f"{learned} {budget} {_seed_flags(seed)} --do_predict")
            for flags in taken:
                experiment(f"{flags} --do_predict", first)
    judged = [step for step in steps.values() if choice.judged and "--do_predict" in step.command]
    return [*steps.values(), *(_judge_step(choice, step, f"judge{plain.suffix}") for step in judged)]


def _single_task_flags(choice: Choice, naming: Naming) -> list[str]:
    """Training of each single-task adapter that a sub-task needs."""
    profile = choice.profile
    sets = dict.fromkeys(name for one in choice.sub_tasks for name in (one.main_set, one.auxiliary_set))
    tones = {one.auxiliary_set for one in choice.sub_tasks if one.auxiliary.name == "tone_adjustment"}
    return [
        f"--experiment_name {naming.adapter(name)} --dataset {name} --stored_model_name {naming.adapter(name)} --do_train "
        + profile.flags("single_task", profile.tone_adapter if name in tones else "")
        for name in sets
    ]


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


def _seed_flags(seed: int) -> str:
    """A calibration starts from zeros: what a seed changes is the examples and their order."""
    return f"--seed {seed} --data_seed {42 + seed}" if seed else ""


def _budget(profile: Profile, method: Method) -> str:
    specific = profile.by_method.get(method.like or method.name, "")
    if method.trains or method.learns:
        return f"{profile.flags('joint_expert' if method.trains else 'learned', specific)} {method.setting}"
    return specific


def _judge_step(choice: Choice, step: Step, group: str) -> Step:
    words = shlex.split(f"--experiment_name {step.name} {choice.profile.flags('judge')}")
    command = ("python", "llm_judge_eval.py", *words, "--workspace", choice.workspace)
    return Step(f"judge {step.name}", command, (step.name,), group)
