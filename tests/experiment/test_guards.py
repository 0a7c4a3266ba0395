"""What a run finds from earlier runs is used only if it is what this run would make."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from compositional.adapters.peft_folder import WEIGHTS_FILE
from compositional.core.errors import UserError
from compositional.core.files import read_json, write_json
from compositional.core.recorded import read_recorded
from compositional.experiment import stages
from helpers.preparing import prepare
from helpers.tiny_runs import COMPOSED, LEARNED, TINY_RUN, ZERO_SHOT


def test_predictions_of_other_settings_are_not_taken_over(run, workspace, tiny_models):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict "
    run(command)
    shutil.rmtree(workspace.output("z"))
    with pytest.raises(UserError, match="predictions of z exists with other settings"):
        run(f"{command}--max_new_tokens 9")
    run(command)
    assert read_recorded(workspace.results("z"))["stages"]["test"]["counts"]["examples"] == 6


def test_a_finished_run_is_scored_again_when_only_the_scoring_changes(run, workspace, tiny_models):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict "
    run(command)
    predictions = workspace.predictions("z", "test").stat().st_mtime_ns
    run(f"{command}--rouge_tokenizer unicode")
    assert read_recorded(workspace.results("z"))["stages"]["test"]["rouge_tokenizer"] == "unicode"
    assert workspace.predictions("z", "test").stat().st_mtime_ns == predictions


def test_results_with_earlier_intervals_are_scored_again_from_their_predictions(run, workspace, tiny_models):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict "
    run(command)
    results, scores = read_recorded(workspace.results("z")), workspace.scores("z", "test").read_text()
    earlier = {key: value for key, value in results["stages"]["test"].items() if key != "intervals"} | {"metrics": {}}
    write_json(workspace.results("z"), results | {"stages": {"test": earlier}})
    workspace.scores("z", "test").unlink()
    predictions = workspace.predictions("z", "test").stat().st_mtime_ns
    run(command)
    assert read_recorded(workspace.results("z"))["stages"] == results["stages"]
    assert workspace.scores("z", "test").read_text() == scores
    assert workspace.predictions("z", "test").stat().st_mtime_ns == predictions


@pytest.mark.parametrize("content", ["{}", "[]", '{"stages": {}}', '{"stages": [], "settings": {}, "arguments": {}}'])
def test_results_that_are_none_are_one_line(content, run, workspace, tiny_models):
    path = workspace.results("z")
    write_json(path, json.loads(content))
    with pytest.raises(UserError) as caught:
        run(f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict")
    (line,) = caught.value.mistakes
    assert line.startswith(f"{path} is damaged: ")
    assert line.endswith(" is expected in it; remove the file, and make it again")


@pytest.mark.slow
def test_an_adapter_whose_record_is_none_is_one_line(run, trained, workspace, tiny_models):
    path = workspace.stored_model("sums") / "experiment.json"
    write_json(path, {})
    command = (
        f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --dataset pocket_dialogs --stored_model_name sums --do_predict "
    )
    with pytest.raises(UserError) as caught:
        run(f"{command}--experiment_name p")
    assert list(caught.value.mistakes) == [
        f"{path} is damaged: experiment, settings, report is expected in it; remove the file, and make it again"
    ]


@pytest.mark.parametrize("name", ["predictions", "output"])
def test_overwrite_takes_the_place_of_a_link_and_leaves_what_it_leads_to(name, run, workspace, tiny_models, tmp_path):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict --max_new_tokens "
    run(f"{command}4")
    folder, moved = workspace.root / name / "z", tmp_path / "moved"
    shutil.move(folder, moved)
    folder.symlink_to(moved)
    before = {path.name: path.read_bytes() for path in moved.iterdir()}
    run(f"{command}5 --overwrite")
    assert not folder.is_symlink()
    assert read_recorded(workspace.results("z"))["arguments"]["max_new_tokens"] == 5
    assert {path.name: path.read_bytes() for path in moved.iterdir()} == before


@pytest.mark.parametrize("place", ["output/z", "predictions/z/bases", "logs/z"])
def test_overwrite_never_deletes_the_base_model(place, run, workspace, tiny_models, tmp_path):
    folder = workspace.root / place / "base"
    shutil.copytree(tiny_models["llama"], folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for name in (folder, link):
        command = f"{ZERO_SHOT}--model_name_or_path {name} --do_predict "
        with pytest.raises(UserError) as caught:
            run(f"{command}--overwrite")
        assert list(caught.value.mistakes) == [
            f"--model_name_or_path {folder} lies in {workspace.root / '/'.join(place.split('/')[:2])}, which --overwrite would "
            "delete: move it, or choose another --experiment_name"
        ]
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    run(command)
    assert workspace.results("z").is_file()


@pytest.mark.parametrize("kind", ["strategy", "adapter", "data"])
def test_overwrite_deletes_nothing_that_the_command_reads(kind, run, adapters):
    """The adapters, the data set and the strategy's file may lie there, too, or be led to by a link."""
    output = adapters.output("e")
    output.mkdir(parents=True)
    strategy, target = "linear", output / kind
    if kind == "strategy":
        strategy = target = output / "own.py"
        strategy.write_text("def merge(adapters, weights):\n    return adapters[0]\n")
        what = f"--lora_merge_strategy {strategy}"
    elif kind == "adapter":
        shutil.move(adapters.stored_model("sums"), target)
        adapters.stored_model("sums").symlink_to(target)
        what = "adapter sums"
    else:
        prepare(adapters, "--only", "pocket_dialogs_es")
        shutil.move(adapters.prepared_data("pocket_dialogs_es"), target)
        adapters.prepared_data("pocket_dialogs_es").symlink_to(target)
        what = "data set pocket_dialogs_es"
    merge = f"--lora_merge_strategy {strategy} --lora_merge_modules sums trans"
    with pytest.raises(UserError) as caught:
        run(f"{COMPOSED}--experiment_name e {merge} --overwrite --do_predict")
    expected = f"{what} lies in {output}, which --overwrite would delete: move it, or choose another --experiment_name"
    assert expected in caught.value.mistakes
    assert target.exists()


def test_overwrite_never_deletes_a_file_of_flags_or_of_the_trainer(run, workspace, tiny_models, tmp_path):
    folder = workspace.logs("z")
    folder.mkdir(parents=True)
    inner, outer, settings = folder / "inner.txt", tmp_path / "outer.txt", folder / "accelerator.json"
    inner.write_text(f"{ZERO_SHOT} --do_predict --overwrite")
    outer.write_text(f"@{inner}")
    settings.write_text("{}")
    with pytest.raises(UserError) as caught:
        run(f"--model_name_or_path {tiny_models['llama']} @{outer} --trainer accelerator_config={settings} run_name={'x' * 300}")
    remedy = f"lies in {folder}, which --overwrite would delete: move it, or choose another --experiment_name"
    assert list(caught.value.mistakes) == [f"@{inner} {remedy}", f"--trainer accelerator_config={settings} {remedy}"]
    assert sorted(folder.iterdir()) == [settings, inner]


@pytest.mark.parametrize("name", ["tables", "sweep", "preparation"])
def test_an_experiment_has_no_name_that_the_workspace_needs_itself(name, run, workspace, tiny_models):
    command = ZERO_SHOT.replace("--experiment_name z", f"--experiment_name {name}")
    with pytest.raises(UserError) as caught:
        run(f"{command}--model_name_or_path {tiny_models['llama']} --do_predict --overwrite")
    assert list(caught.value.mistakes) == [f"--experiment_name {name}: the workspace needs this name itself; choose another"]
    assert not workspace.root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", ["", " --overwrite"])
def test_an_adapter_that_another_run_has_made_since_the_checks_is_no_ones_else(overwrite, run, workspace, tiny_models, monkeypatch):
    command = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --dataset pocket_dialogs --do_train --stored_model_name s "
    check = stages.check_before_start

    def check_while_another_run_ends(plan, data):
        check(plan, data)
        monkeypatch.setattr(stages, "check_before_start", check)
        run(f"{command}--experiment_name one --learning_rate 1e-4")

    monkeypatch.setattr(stages, "check_before_start", check_while_another_run_ends)
    with pytest.raises(UserError, match="was made by experiment one"):
        run(f"{command}--experiment_name two{overwrite}")
    assert read_recorded(workspace.stored_model("s") / "experiment.json")["experiment"] == "one"
    assert not workspace.output("two").exists()


@pytest.mark.slow
def test_the_training_report_outlives_a_later_prediction(run, workspace, tiny_models):
    command = (
        f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --experiment_name s --dataset pocket_dialogs --stored_model_name s "
    )
    run(f"{command}--do_train")
    run(f"{command}--do_predict")
    results = read_recorded(workspace.results("s"))
    assert results["training"]["examples"] == 16
    assert results["stages"]["test"]["counts"]["examples"] == 6


@pytest.mark.slow
def test_an_adapter_is_refused_once_its_base_has_other_weights(run, workspace, tiny_models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_models["llama"], model)
    command = f"{TINY_RUN}--model_name_or_path {model} --dataset pocket_dialogs --stored_model_name s "
    run(f"{command}--experiment_name s --do_train")
    tensors = {name: tensor * 1.1 for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="trained on other weights"):
        run(f"{command}--experiment_name p --do_predict")
    assert not workspace.output("p").exists()


@pytest.mark.slow
def test_a_calibration_with_biases_is_not_merged(run, trained, tiny_models):
    base = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} {COMPOSED}"
    run(f"{base}--experiment_name lc {LEARNED}learnable_calibration --for_each_component")
    with pytest.raises(UserError, match="lc is a Learnable Calibration"):
        run(f"{base}--experiment_name m --lora_merge_strategy linear --lora_merge_modules lc sums --do_predict")


@pytest.mark.slow
def test_a_merge_never_takes_the_place_of_an_adapter_it_merges(run, trained, workspace, tiny_models):
    with pytest.raises(UserError, match="would take its place"):
        run(
            f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} {COMPOSED}--experiment_name sums --overwrite "
            "--lora_merge_strategy linear --lora_merge_modules sums translation"
        )
    assert (workspace.stored_model("sums") / WEIGHTS_FILE).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["half", "factor"])
def test_a_damaged_adapter_is_one_line_and_nothing_is_written(damage, run, trained, workspace, tiny_models):
    path = workspace.stored_model("sums") / WEIGHTS_FILE
    if damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        tensors = load_file(path)
        tensors.pop(next(name for name in tensors if "lora_B" in name))
        save_file(tensors, path)
    with pytest.raises(UserError, match="damaged"):
        run(f"{TINY_RUN}{COMPOSED}--experiment_name p --stored_model_name sums --do_predict")
    assert not workspace.output("p").exists()


@pytest.mark.slow
def test_unequal_ranks_are_refused_before_anything_is_written(run, trained, workspace, tiny_models):
    base = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} "
    run(f"{base}--experiment_name wide --dataset pocket_sentences_es --stored_model_name wide --do_train --lora_rank 6")
    command = f"{base}{COMPOSED}--experiment_name m --lora_merge_modules sums wide --do_predict --lora_merge_strategy "
    with pytest.raises(UserError, match="use linear"):
        run(f"{command}peft_linear")
    run(f"{command}linear")


@pytest.mark.parametrize("flags", ["--lr_scheduler_type cosine_with_min_lr", "--trainer optim=adamw_bnb_8bit"])
def test_what_the_trainer_would_refuse_later_is_refused_first(flags, run, workspace, tiny_models):
    with pytest.raises(UserError, match="Trainer does not take"):
        run(
            f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --experiment_name t --dataset pocket_dialogs "
            f"--stored_model_name t --do_train {flags}"
        )
    assert not workspace.root.exists()


def test_a_model_without_weights_or_with_half_of_them_is_refused(run, workspace, tiny_models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_models["llama"], model)
    command = f"{ZERO_SHOT}--model_name_or_path {model} --do_predict"
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged"):
        run(command)
    weights.unlink()
    with pytest.raises(UserError, match="no weights"):
        run(command)
    assert not workspace.root.exists()


def test_greedy_is_greedy_whatever_the_models_own_generation_settings(run, workspace, tiny_models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_models["llama"], model)
    run(f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict")
    plain = [json.loads(line)["output"] for line in workspace.predictions("z", "test").read_text().splitlines()]
    settings = {"do_sample": True, "temperature": 5.0, "num_beams": 3, "no_repeat_ngram_size": 1, "repetition_penalty": 9.0}
    config = read_json(model / "generation_config.json") | settings | {"num_return_sequences": 2}
    (model / "generation_config.json").write_text(json.dumps(config))
    run(f"{ZERO_SHOT}--model_name_or_path {model} --do_predict --overwrite")
    assert [json.loads(line)["output"] for line in workspace.predictions("z", "test").read_text().splitlines()] == plain


def test_a_calibration_is_checkpointed_when_asked(tiny_models, monkeypatch):
    import transformers.modeling_utils
    from transformers import AutoModelForCausalLM

    from compositional.calibration import LC
    from compositional.training.corrected import CorrectedModel
    from helpers.calibrating import random_calibration, random_merge

    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    calibrated = CorrectedModel(model, random_calibration(random_merge(tiny_models["llama"]), LC))
    calibrated.train()
    ids = torch.arange(5, 25).view(2, 10)
    calibrated(input_ids=ids).logits.square().mean().backward()
    plain = [parameter.grad.clone() for parameter in calibrated.parameters()]
    calibrated.zero_grad()
    calls = []
    original = transformers.modeling_utils.checkpoint
    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    calibrated.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calibrated(input_ids=ids).logits.square().mean().backward()
    assert len(calls) == 2
    for parameter, gradient in zip(calibrated.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_with_the_source_in_the_loss_device_batches_do_not_matter_either(tiny_models, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    from compositional.data import Example
    from compositional.models.chat import ChatEncoder
    from compositional.training.batching import Collator
    from compositional.training.trainer import target_loss

    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"]).eval()
    encoder = ChatEncoder(tiny_tokenizer)
    texts = ["one", "two words and a few more of them"]
    sequences = [encoder.training_sequence("Repeat", Example(text, text, text), 64, True) for text in texts]
    collate = Collator(tiny_tokenizer.pad_token_id)

    def summed(batch) -> torch.Tensor:
        inputs = collate(batch)
        labels = inputs.pop("labels")
        with torch.no_grad():
            return target_loss(model(**inputs), labels, torch.tensor(1))

    torch.testing.assert_close(summed(sequences), summed(sequences[:1]) + summed(sequences[1:]), rtol=1e-4, atol=1e-3)
