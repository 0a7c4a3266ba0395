"""The data sets that a command names, and whether they are of the tasks that it names."""

from __future__ import annotations

from src.arguments import SECONDARY_TASKS, Arguments
from src.data import Dataset, Locations, find_dataset
from src.errors import Mistakes

_VARIANT_FLAGS = dict(zip(SECONDARY_TASKS, ("tgt_lang", "tgt_tone"), strict=True))


def data_sets(arguments: Arguments, locations: Locations, mistakes: Mistakes) -> tuple[Dataset | None, Dataset | None]:
    """The main (or only) task's set, and the set of the asked task or tasks."""
    main_set = mistakes.attempt(find_dataset, arguments.dataset, locations) if arguments.dataset else None
    if main_set and main_set.is_compositional:
        right = f"--dataset {main_set.inputs_of} --secondary_task_dataset {main_set.name}"
        mistakes.append(f"--dataset {main_set.name} is compositional: use {right}")
    if not (arguments.secondary_task or arguments.secondary_task_dataset):
        variant = arguments.tgt_lang or arguments.tgt_tone
        mistakes.when(bool(variant), "--tgt_lang and --tgt_tone need --secondary_task and --secondary_task_dataset")
        return main_set, main_set
    mistakes.when(not arguments.secondary_task, f"--secondary_task is missing: {' or '.join(SECONDARY_TASKS)}")
    mistakes.when(not arguments.secondary_task_dataset, "--secondary_task_dataset is missing: the targets after both tasks")
    _check_variants(arguments, mistakes)
    task_set = (
        mistakes.attempt(find_dataset, arguments.secondary_task_dataset, locations) if arguments.secondary_task_dataset else None
    )
    if main_set and task_set:
        _check_composition(arguments, main_set, task_set, mistakes)
    return main_set, task_set


def merge_sets(arguments: Arguments, locations: Locations, mistakes: Mistakes) -> list[Dataset]:
    """The sets of --merge_datasets."""
    found = [one for name in arguments.merge_datasets if (one := mistakes.attempt(find_dataset, name, locations))]
    for one in found:
        mistakes.when(not one.is_compositional, f"--merge_datasets {one.name}: a compositional data set is needed")
    mistakes.when(len(set(arguments.merge_datasets)) < len(arguments.merge_datasets), "--merge_datasets names a data set twice")
    asked = arguments.secondary_task_dataset
    mistakes.when(
        len(found) > 1 and asked not in arguments.merge_datasets,
        f"--secondary_task_dataset {asked} is none of --merge_datasets: which of the merges should answer?",
    )
    return found


def _check_variants(arguments: Arguments, mistakes: Mistakes) -> None:
    """Each secondary task needs its language or tone, and none is given for another task."""
    for task, flag in _VARIANT_FLAGS.items():
        asked, given = task in arguments.secondary_task, bool(getattr(arguments, flag))
        mistakes.when(asked and not given, f"--secondary_task {task} needs --{flag}")
        others = bool(arguments.secondary_task) and not asked
        mistakes.when(others and given, f"--{flag} contradicts --secondary_task {' '.join(arguments.secondary_task)}")


def _check_composition(arguments: Arguments, main_set: Dataset, task_set: Dataset, mistakes: Mistakes) -> None:
    if not task_set.is_compositional:
        mistakes.append(f"--secondary_task_dataset {task_set.name} has targets of one task only ({task_set.main_task.name})")
        return
    mistakes.when(
        task_set.inputs_of != main_set.name,
        f"--secondary_task_dataset {task_set.name} has the inputs of {task_set.inputs_of}, not of --dataset {main_set.name}",
    )
    auxiliary = task_set.tasks[1:]
    names, asked = " ".join(task.name for task in auxiliary), " ".join(arguments.secondary_task)
    if asked and asked != names:
        mistakes.append(f"--secondary_task {asked}: {task_set.name} is made for {names}")
        return
    for task in auxiliary:
        flag = _VARIANT_FLAGS[task.name]
        given = getattr(arguments, flag)
        mistakes.when(bool(given) and given != task.variant, f"--{flag} {given}: the data of {task_set.name} is {task.variant}")
