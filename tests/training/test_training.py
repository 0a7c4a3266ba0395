"""Training: which examples make an update, what the loss is, and that device batches don't matter."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from compositional.models.chat import IGNORED
from compositional.training import LoraSettings, TrainingFolders
from compositional.training.batching import Collator, EffectiveBatchSampler, accumulation
from compositional.training.recipes import train_lora
from compositional.training.trainer import last_whole_checkpoint, target_loss
from helpers.training import optimization, sequences_of


def trained_factors(tiny_models, tokenizer, folder, **changes) -> torch.Tensor:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    adapter, _ = train_lora(
        model,
        "llama",
        sequences_of(tokenizer, 20),
        tokenizer.pad_token_id,
        LoraSettings(4, 8, 0.0, ["q_proj", "down_proj"]),
        optimization(**changes),
        TrainingFolders(folder / "checkpoints", folder / "logs"),
        "test",
    )
    return torch.cat([factors.B.flatten() for factors in adapter.factors.values()])


@pytest.mark.parametrize(
    ("effective", "asked", "processes", "expected"),
    [
        (192, 3, 1, (3, 64)),
        (192, 32, 1, (32, 6)),
        (192, 100, 1, (96, 2)),
        (192, None, 1, (16, 12)),
        (192, 3, 2, (3, 32)),
        (12, 64, 1, (12, 1)),
        (7, 2, 1, (1, 7)),
    ],
)
def test_device_batch_times_accumulation_is_the_effective_batch(effective, asked, processes, expected):
    assert accumulation(effective, asked, on_gpu=False, processes=processes) == expected


def test_each_update_holds_the_same_examples_whatever_their_lengths():
    lengths = [number * 7 % 11 for number in range(20)]
    order = list(EffectiveBatchSampler(lengths, 6, seed=1))
    assert sorted(order) == list(range(20))
    plain = list(EffectiveBatchSampler([1] * 20, 6, seed=1))
    for start in range(0, 20, 6):
        batch = order[start : start + 6]
        assert set(batch) == set(plain[start : start + 6])
        assert [lengths[index] for index in batch] == sorted((lengths[index] for index in batch), reverse=True)


def test_epochs_and_seeds_have_orders_of_their_own():
    sampler = EffectiveBatchSampler([1] * 20, 6, seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(EffectiveBatchSampler([1] * 20, 6, seed=2)) != first


def test_the_loss_is_the_models_own_over_target_tokens_only(tiny_models, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"]).eval()
    sequences = sequences_of(tiny_tokenizer, 5)
    batch = Collator(tiny_tokenizer.pad_token_id)(sequences)
    labels = batch.pop("labels")
    with torch.no_grad():
        ours = target_loss(model(**batch), labels)
        each = []
        for sequence in sequences:
            ids = torch.tensor([sequence.ids])
            logits = model(ids).logits[0, :-1]
            targets = torch.tensor(sequence.labels)[1:]
            each.append(torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"))
    count = sum(label != IGNORED for sequence in sequences for label in sequence.labels)
    torch.testing.assert_close(ours, sum(each) / count, rtol=1e-4, atol=1e-4)


def test_logits_are_computed_for_targets_only(tiny_models, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    sequences = sequences_of(tiny_tokenizer, 5)
    batch = Collator(tiny_tokenizer.pad_token_id)(sequences)
    batch.pop("labels")
    longest = max(sequence.target_length for sequence in sequences)
    assert model(**batch).logits.shape[1] == longest + 1 < batch["input_ids"].shape[1]


@pytest.mark.slow
def test_the_device_batch_changes_the_result_by_rounding_only(tiny_models, tiny_tokenizer, tmp_path):
    whole = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "a", device_batch_size=6)
    parts = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "b", device_batch_size=2)
    torch.testing.assert_close(whole, parts, rtol=2e-2, atol=2e-4)
    other_data = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "c", device_batch_size=6, data_seed=1)
    assert (whole - other_data).abs().max() > 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter_to_the_bit(tiny_models, tiny_tokenizer, tmp_path):
    one = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "a")
    two = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "b")
    assert torch.equal(one, two)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tiny_models, tiny_tokenizer, tmp_path):
    plain = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "a")
    checkpointed = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "b", gradient_checkpointing=True)
    torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_any_other_setting_reaches_the_trainer(tiny_models, tiny_tokenizer, tmp_path):
    plain = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "a")
    one_step = trained_factors(tiny_models, tiny_tokenizer, tmp_path / "b", trainer={"max_steps": 1})
    assert not torch.allclose(plain, one_step)


def test_a_checkpoint_that_was_cut_off_is_not_resumed_from(tmp_path):
    for step, state in ((20, "{}"), (40, "{}"), (60, '{"global_st'), (80, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path).endswith("checkpoint-40")


@pytest.mark.slow
def test_the_trainer_takes_each_epoch_in_an_order_of_its_own(tiny_models, tiny_tokenizer, tmp_path, monkeypatch):
    seen = []
    original = Collator.__call__
    monkeypatch.setattr(Collator, "__call__", lambda self, batch: (seen.append([s.ids for s in batch]), original(self, batch))[1])
    trained_factors(tiny_models, tiny_tokenizer, tmp_path, epochs=2.0, effective_batch_size=4, device_batch_size=4)
    first, second = seen[:5], seen[5:]
    assert len(first) == len(second) == 5
    assert first != second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requested", "has_instructions", "used", "said"),
    [
        (True, True, "bfloat16 mixed", []),
        (True, False, "float32", ["--bf16: this CPU has no bfloat16 instructions, so the training is in float32"]),
        (False, True, "float32", []),
    ],
)
def test_bf16_on_a_cpu_without_its_instructions_is_said_and_done_in_float32_and_recorded(
    requested, has_instructions, used, said, tiny_models, tiny_tokenizer, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("compositional.training.trainer.has_bfloat16", lambda: has_instructions)
    precisions = []
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    model.lm_head.register_forward_hook(lambda module, inputs, output: precisions.append(output.dtype))
    lora, folders = LoraSettings(4, 8, 0.0, ["q_proj"]), TrainingFolders(tmp_path / "checkpoints", tmp_path / "logs")
    sequences, settings = sequences_of(tiny_tokenizer, 6), optimization(bf16=requested)
    _, report = train_lora(model, "llama", sequences, tiny_tokenizer.pad_token_id, lora, settings, folders, "test")
    assert report.precision == used
    assert set(precisions) == {torch.bfloat16 if used == "bfloat16 mixed" else torch.float32}
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == said
