"""The last checks before anything is written. They need the base model's configuration and tokenizer."""

from __future__ import annotations

import logging
from dataclasses import replace

from compositional.adapters.lora import LoraAdapter, module_type
from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration import LC, LC_PLUS_PLUS, biased_modules, components_of_modules, spec_of_stored
from compositional.core.errors import Mistakes, UserError
from compositional.core.machine import resolve_dtype
from compositional.experiment.arguments import CALIBRATION, MERGE
from compositional.experiment.examples import ExperimentData, demonstrations
from compositional.experiment.plan import Plan
from compositional.experiment.resume import ADAPTER_RECORD, check_unchanged, read_adapter_record
from compositional.formats.gguf_forms import gguf_form, pre_tokenizer
from compositional.models.chat import ChatEncoder, instruction
from compositional.models.model import Model
from compositional.prediction import LLAMA_CPP, VLLM, AnswerReader, resolve_backend
from compositional.prediction.vllm_engine import check_adapter, check_vllm

logger = logging.getLogger(__name__)

_BYTES_OF_PREDICTION = 4096  # with its scores; a text of a few hundred tokens


def check_before_start(plan: Plan, data: ExperimentData) -> None:
    """Raise UserError that lists everything that would stop the experiment later."""
    plan.base.check_full_precision()
    plan.base.check_weights()
    shapes = plan.base.linear_shapes
    checks = [
        lambda: _check_folders(plan),
        lambda: _check_prediction(plan, data),
        lambda: _check_prompts_fit(plan, data),
        lambda: _check_adapters_fit(plan, shapes),
        lambda: _check_merge(plan),
        lambda: _check_training(plan, data, shapes),
        lambda: plan.workspace.check_space(_bytes_to_write(plan, data, shapes)),
    ]
    mistakes: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))


def _check_folders(plan: Plan) -> None:
    """Check that the folders that the experiment writes can be written to."""
    workspace, name = plan.workspace, plan.arguments.experiment_name
    folders = [workspace.output(name), workspace.predictions_folder(name), workspace.logs(name)]
    if plan.written_adapter:
        folders += [workspace.stored_model(plan.written_adapter).parent, workspace.training(plan.written_adapter)]
    workspace.check_writable(*folders)


def _bytes_to_write(plan: Plan, data: ExperimentData, shapes: dict[str, tuple[int, int]]) -> int:
    """About how much the experiment writes at most at one time: checkpoints, the adapter, and a few kB for each example."""
    arguments, bytes_of_number = plan.arguments, 4 if plan.arguments.adapter_dtype == "float32" else 2
    size = sum(len(examples.chosen) for examples in data.stages.values()) * _BYTES_OF_PREDICTION
    if arguments.do_train:
        modules = [shape for path, shape in shapes.items() if module_type(path) in arguments.lora_target_modules]
        parameters = arguments.lora_rank * sum(map(sum, modules))
        # A checkpoint has float32 factors and Adam's two moments of each; two are kept while a third is written.
        return size + parameters * (3 * 3 * 4 + bytes_of_number)
    if plan.method in (MERGE, CALIBRATION):
        updated = {path: sum(shape) for adapter in plan.merges[plan.own_merge] for path, shape in adapter.shapes.items()}
        return size + _rank_to_predict_with(plan) * sum(updated.values()) * bytes_of_number
    return size


def _check_prediction(plan: Plan, data: ExperimentData) -> None:
    """Check that the model has room for a prompt, and that vLLM, if used, supports model and adapter."""
    if not data.stages:
        return
    AnswerReader(plan.base, plan.base.tokenizer)
    solved_length = ChatEncoder(plan.base.tokenizer, demonstrations(plan, data)).demonstrations_length
    room = plan.longest_prompt(solved_length)
    if room < 1 or room <= solved_length:
        beside = f", and the --in_context_examples have {solved_length}" if solved_length else ""
        raise UserError(
            f"--max_new_tokens {plan.arguments.max_new_tokens}: {plan.base.name} takes {plan.base.longest_sequence} tokens{beside}"
        )
    if room < plan.arguments.max_prompt_length + solved_length:
        logger.info("prompts are cut at %d tokens: the model takes %d", room, plan.base.longest_sequence)
    backend = resolve_backend(plan.arguments.prediction_backend)
    if backend == LLAMA_CPP:
        _check_llama_cpp(plan, room)
    if backend != VLLM:
        return
    try:
        check_vllm(plan.base, plan.arguments.tensor_parallel_size)
        check_adapter(_rank_to_predict_with(plan), _module_paths(plan), resolve_dtype(plan.arguments.prediction_dtype))
    except UserError as error:
        raise UserError(
            *(f"{mistake}; --prediction_backend transformers does without vLLM" for mistake in error.mistakes)
        ) from error


def _check_llama_cpp(plan: Plan, longest_prompt: int) -> None:
    """Check that llama.cpp computes the model and has places for a calibration's biases, or that a running server has it all."""
    url = plan.arguments.llama_cpp_url
    if not url:
        gguf_form(plan.base).check_places(_biased_modules(plan))
        pre_tokenizer(plan.base.tokenizer)
        return
    from compositional.prediction.llama_cpp_server import check_served, served_model

    stored = [StoredAdapter(plan.workspace.stored_model(name)) for name in plan.answering_adapters]
    if unmade := [one.name for one in stored if not one.folder.is_dir()]:
        raise UserError(
            f"--llama_cpp_url: this command makes the adapter {unmade[0]}, so no server can have it: run it without --do_valid and "
            "--do_predict, export it with `export.py --to gguf`, and predict then"
        )
    check_served(served_model(url), plan.base, stored, longest_prompt + plan.arguments.max_new_tokens)


def _biased_modules(plan: Plan) -> set[str]:
    """Paths of the modules that have a Learnable Calibration's bias, or shall get one."""
    if plan.method == CALIBRATION:
        spec = spec_of_stored(plan.calibration_source.folder) if plan.calibration_source else plan.calibration
        shapes = {path: shape for adapter in plan.merges[plan.own_merge] for path, shape in adapter.shapes.items()}
        return set(components_of_modules(spec, shapes)) if spec.method == LC else set()
    return biased_modules(plan.adapters.values())


def _rank_to_predict_with(plan: Plan) -> int:
    """The highest rank among the adapters used for prediction."""
    if plan.arguments.do_train:
        return plan.arguments.lora_rank
    if plan.method not in (MERGE, CALIBRATION):
        return max((adapter.rank for adapter in plan.adapters.values()), default=0)
    (factors,) = _merge_of_one_module(plan).factors.values()
    if plan.calibration_source:
        return factors.rank + spec_of_stored(plan.calibration_source.folder).rank
    return factors.rank + (plan.arguments.calibration_rank if plan.arguments.calibrate == LC_PLUS_PLUS else 0)


def _module_paths(plan: Plan) -> set[str]:
    """Paths (or types, before training) of the modules that have a LoRA."""
    if plan.arguments.do_train:
        return set(plan.arguments.lora_target_modules)
    return {path for adapter in plan.adapters.values() for path in adapter.shapes}


def _check_prompts_fit(plan: Plan, data: ExperimentData) -> None:
    """Check that each instruction in its template leaves room for text."""
    encoder = ChatEncoder(plan.base.tokenizer, demonstrations(plan, data))
    room = plan.longest_prompt(encoder.demonstrations_length)
    if room < 1 or room <= encoder.demonstrations_length:
        return  # reported by _check_prediction
    for request in plan.requests if data.stages else []:
        encoder.check_room(request, room)
    for examples in data.training:
        # A target takes up to half of a training sequence.
        request = instruction(examples.dataset.tasks, plan.arguments.prompt_style)
        ChatEncoder(plan.base.tokenizer).check_room(request, plan.arguments.max_length // 2)


def _check_adapters_fit(plan: Plan, expected: dict[str, tuple[int, int]]) -> None:
    mistakes = Mistakes()
    for name, adapter in plan.adapters.items():
        trained_on = _recorded_base(adapter)
        if trained_on and trained_on != plan.base.identity and not plan.arguments.ignore_recorded_base_model:
            mistakes.append(f"adapter {name} was trained on other weights than {plan.base.name} has now: train it again")
        for path, shape in adapter.shapes.items():
            if path not in expected:
                mistakes.append(f"adapter {name} does not fit {plan.base.name}: the model has no linear module {path}")
                break
            if expected[path] != shape:
                theirs, ours = " × ".join(map(str, shape)), " × ".join(map(str, expected[path]))
                fault = f"{path} is {theirs} in the adapter, {ours} in the model"
                mistakes.append(f"adapter {name} does not fit {plan.base.name}: {fault}")
                break
        mistakes.attempt(plan.base.check_updates, adapter.shapes, f"adapter {name} can't be used")
        mistakes.attempt(_check_values, adapter)
    if mistakes:
        raise UserError(*mistakes)


def _check_values(adapter: StoredAdapter) -> None:
    adapter.check_finite()
    check_unchanged(adapter)


def _recorded_base(adapter: StoredAdapter) -> str | None:
    """The identity of the base model that an adapter was trained on; None for adapters that no experiment made."""
    path = adapter.folder / ADAPTER_RECORD
    return read_adapter_record(adapter.folder)["settings"].get("hash_of_base_model") if path.is_file() else None


def _check_training(plan: Plan, data: ExperimentData, shapes: dict[str, tuple[int, int]]) -> None:
    """Check that the Trainer accepts its settings, and that the model has the modules that get a LoRA."""
    if not data.training:
        return
    from compositional.training import compilation
    from compositional.training.trainer import check_trainer_takes

    if plan.arguments.do_train:
        _check_target_modules(plan.lora.target_modules, plan.base, shapes)
    if plan.arguments.torch_compile == compilation.ON and (missing := compilation.missing_compiler()):
        raise UserError(f"--torch_compile on: {missing}")
    check_trainer_takes(plan.optimization)


def _check_merge(plan: Plan) -> None:
    """Check that the strategy accepts the adapters, by merging one module, and that the calibration fits their modules."""
    if plan.method not in (MERGE, CALIBRATION):
        return
    _merge_of_one_module(plan)
    if plan.method == CALIBRATION:
        _check_calibration(plan)


def _check_calibration(plan: Plan) -> None:
    """Check that all merges update the same modules, and that the calibration fits these."""
    from compositional.calibration.parameters import read_calibration

    updated = [{path: shape for adapter in merged for path, shape in adapter.shapes.items()} for merged in plan.merges]
    if any(shapes != updated[0] for shapes in updated):
        raise UserError("--merge_datasets: the merges update different modules, so they can't share a calibration")
    if plan.calibrates:
        components_of_modules(plan.calibration, updated[0])
        return
    stored = plan.calibration_source
    learned_on = _recorded_base(stored)
    if learned_on and learned_on != plan.base.identity:
        raise UserError(f"--stored_calibration {stored.name}: it was learned on other weights than {plan.base.name} has now")
    read_calibration(stored.folder, updated[0])


def _merge_of_one_module(plan: Plan) -> LoraAdapter:
    from compositional.training.recipes import NoExamples

    arguments = plan.arguments
    adapters = plan.read_adapters(plan.own_merge)
    path = next(iter(adapters[0].factors))
    first_modules = [replace(one, factors={k: v for k, v in one.factors.items() if k == path}) for one in adapters]
    return plan.strategy.merge(first_modules, arguments.lora_merge_weights, plan.merge_options, NoExamples())


def _check_target_modules(names: list[str], base: Model, shapes: dict[str, tuple[int, int]]) -> None:
    known = {module_type(path) for path in shapes}
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"--lora_target_modules {' '.join(unknown)}: the linear modules of {base.name} are {', '.join(sorted(known))}"
        )
    base.check_updates(names, f"--lora_target_modules {' '.join(names)}")
