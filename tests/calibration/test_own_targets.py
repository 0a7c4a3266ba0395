"""`--calibration_targets multi_step`: a calibration learns the adapters' own two-step answers, without composed targets."""

from __future__ import annotations

import pytest
import torch

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.experiment import adapter as making
from compositional.experiment.resume import ADAPTER_RECORD
from compositional.prediction.predict import read_predictions
from helpers.tiny_runs import COMPOSED, LEARNED, MODULES, TINY_RUN

OWN = "--calibration_targets multi_step "
LC_PP = f"{TINY_RUN}{COMPOSED}{LEARNED}learnable_calibration_pp --for_each_component --do_predict "


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.slow(6)
@pytest.mark.parametrize("merge_set", ["pocket_dialogs_es", "pocket_dialogs"])
def test_its_targets_are_what_multi_step_usage_answers(merge_set, run, workspace, trained, monkeypatch):
    learned_from = []
    original = making.AdapterMaker._sequences
    monkeypatch.setattr(
        making.AdapterMaker, "_sequences", lambda self, examples: (learned_from.append(examples), original(self, examples))[1]
    )
    flags = LC_PP.replace("--merge_datasets pocket_dialogs_es", f"--merge_datasets {merge_set}")
    run(f"{flags}{OWN}--experiment_name own")
    (examples,) = learned_from
    assert len(examples.chosen) == 16
    record = read_json(workspace.stored_model("own") / ADAPTER_RECORD)
    assert record["settings"]["calibration_targets"] == "multi_step"
    assert read_json(workspace.results("own"))["method"] == "learnable_calibration_pp+multi_step_targets"
    # The same inputs through the command of multi-step usage.
    from compositional.data import Dataset

    chosen = examples.chosen
    monkeypatch.setattr(Dataset, "read", lambda self, split: chosen)
    steps = "--stored_model_name sums --secondary_stored_model_name translation --multi_step_prompts --prompt_style empty "
    run(f"{TINY_RUN}{COMPOSED}{steps}--max_test_examples 16 --experiment_name steps --do_predict")
    said = {one.id: one.output for one in read_predictions(workspace.predictions("steps", "test"))}
    assert {example.id: example.reference for example in chosen} == said
    assert len(set(said.values())) > 1


@pytest.mark.slow(3)
def test_it_is_another_setting_than_the_targets_of_a_data_set(run, workspace, trained):
    run(f"{LC_PP}{OWN}--experiment_name own")
    with pytest.raises(UserError, match="calibration_targets was multi_step, is data_set"):
        run(f"{LC_PP}--experiment_name own")
    with pytest.raises(UserError, match="max_new_tokens was 8, is 9"):
        run(f"{LC_PP}{OWN}--experiment_name own --max_new_tokens 9")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (f"--lora_merge_strategy linear {MODULES}{OWN}", "--calibration_targets multi_step needs --calibrate"),
        (
            f"{LEARNED.replace(MODULES, '')}learnable_calibration {OWN}--lora_merge_modules sums translation sums",
            "2 tasks, 3 adapters",
        ),
        (f"{LEARNED.replace('pocket_dialogs_es', 'pocket_dialogs')}learnable_calibration ", "a compositional data set is needed"),
    ],
)
def test_what_contradicts_it_is_a_mistake(flags, expected, run, workspace):
    with pytest.raises(UserError, match=expected):
        run(f"{TINY_RUN}{COMPOSED}--experiment_name e --do_predict {flags}")
