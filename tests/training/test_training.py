"""Training: which examples make an update, what the loss is, and that device batches don't matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM

from compositional.models.chat import IGNORED, TrainingSequence
from compositional.training import LoraSettings, TrainingFolders
from compositional.training.batching import Collator, EffectiveBatchSampler, device_batches, per_process, with_filler
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


def test_an_update_is_shared_equally_or_not_at_all():
    assert per_process(192, 3) == 64
    with pytest.raises(ValueError, match="7 examples per update can't be shared by 2"):
        per_process(7, 2)


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "max_examples", "expected"),
    [
        ([5, 4, 3, 2], 20, None, [4]),
        ([5, 4, 3, 2], 10, None, [2, 2]),
        ([5, 4, 3, 2], 20, 3, [3, 1]),
        ([50, 4, 3, 2], 10, None, [1, 2, 1]),
        ([5], 1, 1, [1]),
    ],
)
def test_a_batch_on_the_device_has_no_more_tokens_than_fit(lengths, max_tokens, max_examples, expected):
    sequences = [TrainingSequence(list(range(1, n + 1)), [IGNORED] * (n - 1) + [n], truncated=False) for n in lengths]
    parts = device_batches(Collator(0)(sequences), max_tokens, max_examples)
    assert [len(part["input_ids"]) for part in parts] == expected
    rows = [row for part in parts for row in zip(part["input_ids"], part["attention_mask"], strict=True)]
    assert [ids[mask.bool()].tolist() for ids, mask in rows] == [sequence.ids for sequence in sequences], "nothing is lost"
    assert all(part["attention_mask"][0].all() for part in parts), "each part is cut to its longest example"
    assert all(part["logits_to_keep"] == min(2, part["input_ids"].shape[1]) for part in parts)


def test_each_process_gets_examples_of_all_lengths():
    order = [
        EffectiveBatchSampler([9, 1, 8, 2, 7, 3], 6, seed=1, processes=2).lengths[i]
        for i in EffectiveBatchSampler([9, 1, 8, 2, 7, 3], 6, seed=1, processes=2)
    ]
    assert order == [9, 7, 2, 8, 3, 1]


@pytest.mark.parametrize("count", [16, 20, 21])
def test_each_update_holds_the_same_examples_whatever_the_number_of_processes(count):
    one, two = ([set(shard) for shard in updates_of(count, processes)] for processes in (1, 2))
    assert one == [update - {count} for update in two]
    assert sorted(index for update in updates_of(count, 2) for index in update if index < count) == list(range(count))


def updates_of(count: int, processes: int) -> list[list[int]]:
    """The indices of each update, as accelerate deals them out to several processes."""
    sampler = EffectiveBatchSampler(list(range(count)), 8, seed=1, processes=processes)
    batches = BatchSampler(sampler, per_process(8, processes), drop_last=False)
    if processes == 1:
        return list(batches)
    shards = [list(BatchSamplerShard(batches, processes, number)) for number in range(processes)]
    assert {len(shard) for shard in shards} == {-(-count // 8)}
    return [[index for part in update for index in part] for update in zip(*shards, strict=True)]


def test_the_filler_of_several_processes_has_no_labels(tiny_tokenizer):
    sequences = [replace(one, merge_index=1) for one in sequences_of(tiny_tokenizer, 3)]
    assert with_filler(sequences, 1) == sequences
    *same, filler = with_filler(sequences, 2)
    assert same == sequences
    batch = Collator(tiny_tokenizer.pad_token_id)([sequences[0], filler])
    assert (batch["labels"][1] == IGNORED).all()
    assert batch["attention_mask"][1].sum() == 1
    assert batch["merge_index"].tolist() == [1, 1]


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
