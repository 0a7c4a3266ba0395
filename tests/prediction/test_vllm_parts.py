"""What vLLM takes and refuses, and how a calibration is spread over its workers; no engine, but for one that cannot start."""

from __future__ import annotations

import pytest
import torch

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.prediction.vllm_engine import allowed_rank
from helpers.tiny_runs import COMPOSED, TINY_RUN, train_single_tasks

RUN = f"{TINY_RUN}--experiment_name e --dataset pocket_dialogs --do_predict --prediction_backend vllm "


@pytest.mark.parametrize(("rank", "allowed"), [(0, 0), (1, 1), (4, 8), (8, 8), (9, 16), (68, 128), (512, 512)])
def test_the_next_rank_that_vllm_allows_is_chosen(rank, allowed):
    assert allowed_rank(rank) == allowed


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--do_train --stored_model_name a --lora_rank 513", "vLLM takes adapters up to rank 512, not 513"),
        ("--do_train --stored_model_name a --lora_target_modules q_proj lm_head", "vLLM takes no adapters of lm_head"),
        ("--zero_shot --tensor_parallel_size 64", "--tensor_parallel_size 64: "),
    ],
)
def test_what_vllm_refuses_is_said_before_anything_is_trained(flags, reason, run, workspace, tiny_models):
    with pytest.raises(UserError) as caught:
        run(f"{RUN}--model_name_or_path {tiny_models['stablelm']} {flags}")
    (line,) = caught.value.mistakes
    assert line.startswith(reason)
    assert line.endswith("--prediction_backend transformers does without vLLM")
    assert not workspace.output("e").exists()


@pytest.mark.slow
def test_the_rank_of_a_merge_and_its_calibration_is_foreseen(run, workspace, tiny_models):
    model = tiny_models["llama"]
    train_single_tasks(lambda words: run(f"{words} --lora_rank 255"), model)
    merged = f"{RUN}--model_name_or_path {model} {COMPOSED}--lora_merge_modules sums translation "
    calibrated = f"{merged}--lora_merge_strategy learnable_calibration_pp --merge_datasets pocket_dialogs_es "
    with pytest.raises(UserError, match="not 514"):
        run(calibrated)
    with pytest.raises(UserError, match="not 513"):
        run(f"{calibrated}--calibration_rank 3")
    run(f"{merged}--lora_merge_strategy linear --prediction_backend transformers")  # 510
    assert workspace.results("e").is_file()


@pytest.mark.slow(22)
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, vLLM takes such heads, and the cache is no question of the CPU")
@pytest.mark.parametrize(
    ("gibibytes", "said"),
    [("1", r"vLLM died: RuntimeError: .*head_dim=8"), ("99999", r"vLLM could not start .*: ValueError: .*99999")],
    ids=["dies", "does not start"],
)
def test_an_engine_that_fails_says_why_and_blocks_nothing(gibibytes, said, run, workspace, tiny_tokenizer, tmp_path, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", gibibytes)
    tokens = {"bos_token_id": None, "eos_token_id": tiny_tokenizer.eos_token_id, "vocab_size": len(tiny_tokenizer)}
    small = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 1}  # heads of 8
    LlamaForCausalLM(LlamaConfig(**small, **tokens)).save_pretrained(tmp_path / "small")
    tiny_tokenizer.save_pretrained(tmp_path / "small")
    command = f"{RUN}--model_name_or_path {tmp_path / 'small'} --zero_shot "
    with pytest.raises(UserError, match=rf"{said}.*; its messages are in .*run\.log"):
        run(command)
    assert not workspace.results("e").exists()
    run(f"{command}--prediction_backend transformers")
    assert read_json(workspace.results("e"))["predictions_made_by"]["test"]["backend"] == "transformers"


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_two_workers_gets_its_part_of_the_biases(rank):
    """Column-parallel layers have half of the outputs on each worker; k and v are copied where heads are fewer than workers."""
    from vllm.model_executor.layers import linear

    half = [1, 2, 3, 4] if rank == 0 else [5, 6, 7, 8]
    heads = {"num_heads": 1, "num_kv_heads": 1, "head_size": 4, "v_head_size": 4, "gather_output": False}
    up = placed(linear.MergedColumnParallelLinear, rank, 8, 1, output_sizes=[8, 8], gather_output=False)
    assert up == [0, 0, 0, 0, *half]
    assert placed(linear.ColumnParallelLinear, rank, 4, None, gather_output=False) == half
    assert placed(linear.QKVParallelLinear, rank, 12, "q", num_kv_head_replicas=1, **heads) == [*half, *[0] * 8]
    assert placed(linear.QKVParallelLinear, rank, 12, "k", num_kv_head_replicas=1, **heads) == [*[0] * 4, *half, *[0] * 4]
    copied = placed(linear.QKVParallelLinear, rank, 12, "v", outputs=4, num_kv_head_replicas=2, **heads)
    assert copied == [*[0] * 8, 1, 2, 3, 4]
    assert placed(linear.RowParallelLinear, rank, 8, None) == [1, 2, 3, 4, 5, 6, 7, 8]


def placed(kind: type, rank: int, length: int, shard: int | str | None, outputs: int = 8, **attributes: object) -> list[float]:
    """Where a bias 1, 2, ... of a module with some outputs comes in a worker's layer of a kind, `length` outputs long."""
    from compositional.prediction.vllm_worker import _shard_of

    layer = kind.__new__(kind)
    torch.nn.Module.__init__(layer)
    layer.__dict__ |= {"tp_rank": rank, "tp_size": 2, **attributes}
    layer.bias = torch.nn.Parameter(torch.zeros(length))
    return _shard_of(layer, torch.arange(1.0, outputs + 1), shard).tolist()
