"""Real dialogues go through the same commands as Pocket's: none is lost, and what is cut is counted."""

from __future__ import annotations

import json

import pytest

from compositional.core.files import read_json

TINY_RUN = (
    "--batch_size 4 --gradient_accumulation_steps 1 --lora_rank 4 --report_to none --bootstrap_resamples 50 --max_new_tokens 4 "
)


@pytest.fixture
def raw_data(shared_data, tmp_path):
    """DialogSum's development dialogues as its three splits, in the publishers' format."""
    lines = (shared_data / "dialogsum.dev.jsonl").read_text(encoding="utf-8")
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"dialogsum.{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def prepared_data(raw_data, workspace):
    """A set with DialogSum's inputs; the targets only stand in for translated summaries."""
    from datasets import Dataset, DatasetDict

    rows = [json.loads(line) for line in (raw_data / "dialogsum.dev.jsonl").read_text(encoding="utf-8").splitlines()]
    columns = {
        "id": [row["fname"] for row in rows],
        "input": [row["dialogue"] for row in rows],
        "target": [f"¡{row['summary']}!" for row in rows],
    }
    splits = DatasetDict({split: Dataset.from_dict(columns) for split in ("train", "validation", "test")})
    splits.save_to_disk(str(workspace.prepared_data("dialogsum_es")))


@pytest.mark.slow(20)
def test_all_500_dialogues_are_predicted_on_pockets_base(run, workspace, raw_data):
    run(
        f"{TINY_RUN}--experiment_name d --model_name_or_path pocket --dataset dialogsum --raw_data_dir {raw_data} "
        "--stored_model_name d --do_train --max_train_examples 8 --do_valid --max_valid_examples 4 --do_predict --max_length 320"
    )
    results = read_json(workspace.results("d"))
    counts = results["stages"]["test"]["counts"]
    assert counts["examples"] == 500
    assert 0 < counts["truncated_prompts"] < 500
    assert results["training"]["truncated_training_examples"] > 0
    lines = [json.loads(line) for line in workspace.predictions("d", "test").read_text(encoding="utf-8").splitlines()]
    sources = [json.loads(line) for line in (raw_data / "dialogsum.test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["id"], line["input"], line["reference"]) for line in lines] == [
        (source["fname"], source["dialogue"], source["summary"]) for source in sources
    ]
    assert sum(line["prompt_truncated"] for line in lines) == counts["truncated_prompts"]


@pytest.mark.slow(10)
@pytest.mark.usefixtures("prepared_data")
def test_every_method_takes_the_real_dialogues(run, workspace, raw_data):
    base = f"{TINY_RUN}--model_name_or_path pocket --raw_data_dir {raw_data} --max_train_examples 8 --max_test_examples 5 "
    run(f"{base}--experiment_name sums --dataset dialogsum --stored_model_name sums --do_train")
    run(f"{base}--experiment_name es --dataset pocket_sentences_es --stored_model_name es --do_train")
    composed = (
        f"{base}--dataset dialogsum --secondary_task translation --tgt_lang es --secondary_task_dataset dialogsum_es --do_predict "
    )
    modules = "--lora_merge_modules sums es "
    learned = f"{modules}--merge_datasets dialogsum_es --num_examples_merge 8 --for_each_component "
    methods = {
        "zero_shot": "--zero_shot",
        "main_lora": "--stored_model_name sums",
        "linear": f"{modules}--lora_merge_strategy peft_linear",
        "multi_step": "--stored_model_name sums --secondary_stored_model_name es --multi_step_prompts --prompt_style empty",
        "joint": "--stored_model_name joint --multi_task_train_targets --do_train",
        "lc_pp": f"{learned}--lora_merge_strategy learnable_calibration_pp",
    }
    for name, flags in methods.items():
        run(f"{composed}--experiment_name {name} {flags}")
        assert read_json(workspace.results(name))["stages"]["test"]["counts"]["examples"] == 5, name
