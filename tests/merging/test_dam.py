"""DAM as published: a merge that learns to answer each adapter's own examples as that adapter does."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.peft_folder import read_adapter
from compositional.adapters.updates import AdapterUpdates
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.merging import merge
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.training import TrainingFolders, TrainingReport
from compositional.training.imitation import TaughtCorrection, TaughtOutput, imitation_loss
from compositional.training.recipes import SingleTaskExamples
from helpers.composing import SPANISH, adapter_of, folded, mistake_in, store, two_of
from helpers.planning import plan_of
from helpers.training import optimization, sequences_of

pytestmark = pytest.mark.usefixtures("one_thread")
DAM = f"{SPANISH}--experiment_name e --lora_merge_strategy dam --lora_merge_modules one two "
OWN_SETS = "--merge_datasets pocket_dialogs pocket_sentences_es "


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def examples(tiny_models, tiny_tokenizer, tmp_path) -> SingleTaskExamples:
    """Eight examples, which make one update: the odd ones are the second adapter's."""
    sequences = [replace(one, merge_index=n % 2) for n, one in enumerate(sequences_of(tiny_tokenizer, 8))]
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    settings = optimization(effective_batch_size=8, lr_scheduler_type="constant", device_batch_size=3)
    folders = TrainingFolders(Path(mkdtemp(dir=tmp_path)), tmp_path / "logs")
    return SingleTaskExamples(model, sequences, tiny_tokenizer.pad_token_id, settings, folders, "test")


def log_chances(model: torch.nn.Module, sequence: TrainingSequence, temperature: float) -> torch.Tensor:
    """Of the target tokens (targets × vocabulary)."""
    places = [place - 1 for place, label in enumerate(sequence.labels) if label != IGNORED]
    with torch.no_grad():
        return (model(input_ids=torch.tensor([sequence.ids])).logits[0, places] / temperature).log_softmax(dim=-1)


def divergence_by_hand(
    folder: Path,
    merged: list[LoraAdapter],
    weights: list[float],
    teachers: list[LoraAdapter],
    examples: SingleTaskExamples,
    t: float,
) -> float:
    """T² KL of each example's adapter alone to the merge, by folded models, one sequence after the other."""
    student = folded(folder, merged, weights)
    alone = [folded(folder, [teacher], [1.0]) for teacher in teachers]
    costs = []
    for sequence in examples.sequences:
        theirs, ours = log_chances(alone[sequence.merge_index], sequence, t), log_chances(student, sequence, t)
        costs += (t**2 * theirs.exp() * (theirs - ours)).sum(dim=-1).tolist()
    return sum(costs) / len(costs)


def test_the_loss_is_the_divergence_at_the_targets():
    torch.manual_seed(0)
    logits, teachers = 3 * torch.randn(2, 4, 7), 3 * torch.randn(2, 4, 7)
    labels = torch.tensor([[9, 9, IGNORED, IGNORED, 5, 2], [9, 9, IGNORED, 1, 5, 2]])  # of six places, the last four are kept
    expected = []
    for row, places in enumerate(([1, 2], [0, 1, 2])):
        for place in places:
            theirs, ours = (one[row, place].div(2).softmax(dim=-1) for one in (teachers, logits))
            expected.append(4 * (theirs * (theirs / ours).log()).sum())
    loss = imitation_loss(TaughtOutput(logits, teachers), labels, temperature=2.0)
    assert loss.item() == pytest.approx(sum(expected).item() / 5, rel=1e-5)
    whole = imitation_loss(TaughtOutput(logits, teachers), labels, torch.tensor(10), temperature=2.0)
    assert whole.item() == pytest.approx(sum(expected).item() / 10, rel=1e-5)
    assert imitation_loss(TaughtOutput(teachers, teachers), labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.3, -0.4]])
def test_the_first_loss_is_the_divergence_of_the_merge_from_each_adapter_alone(weights, tiny_models, examples):
    adapters = two_of(tiny_models["llama"])
    options = {"cosine": 0.0, "l1": 0.0, "l2": 0.0, "temperature": 1.5}
    merged = merge("dam", adapters, weights, options, examples)
    by_hand = divergence_by_hand(tiny_models["llama"], adapters, weights, adapters, examples, 1.5)
    assert merged.report["first_loss"] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.slow
def test_learning_brings_the_merge_nearer_to_each_adapter_on_its_own_examples(tiny_models, examples):
    adapters = two_of(tiny_models["llama"])
    before = divergence_by_hand(tiny_models["llama"], adapters, [0.5, 0.5], adapters, examples, 2.0)
    merged = merge("dam", adapters, [], {"learning_rate": 0.05, "epochs": 8.0}, examples)
    after = divergence_by_hand(tiny_models["llama"], [merged], [1.0], adapters, examples, 2.0)
    assert after < 0.7 * before
    for path, factors in merged.factors.items():
        expected = sum(adapter.factors[path].delta() * merged.learned[f"m{n}.{path}"] for n, adapter in enumerate(adapters))
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_model_is_itself_again_after_learning(tiny_models, examples):
    ids = torch.tensor([examples.sequences[0].ids])
    before = examples.model(input_ids=ids).logits
    merge("dam", two_of(tiny_models["llama"]), [], {}, examples)
    assert torch.equal(examples.model(input_ids=ids).logits, before)


def test_dam_is_told_its_options_and_a_penalty_of_cosines_and_norms(tiny_models):
    adapters = [
        adapter_of(tiny_models["llama"], str(n), n, 2, 1.0, kinds) for n, kinds in enumerate((("q_proj", "v_proj"), ("q_proj",)))
    ]

    def imitate(teachers: list[LoraAdapter], updates: AdapterUpdates, *told: object) -> TrainingReport:
        *options, penalty = told
        assert (teachers, options) == (adapters, [0.02, 2.5, 3.0])
        torch.manual_seed(1)
        for scale in updates.parameters():
            torch.nn.init.normal_(scale)
        shared = [updates.column_scales(path) for path in updates.corrected_paths if path.endswith("q_proj")]
        cosines = sum(torch.cosine_similarity(*pair, dim=0) for pairs in shared for pair in combinations(pairs, 2))
        scales = list(updates.parameters())
        assert len(shared) == 2
        assert len(scales) == 6
        expected = 0.3 * cosines + 0.2 * sum(scale.abs().sum() for scale in scales) + 0.1 * sum(scale.norm() for scale in scales)
        assert penalty().item() == pytest.approx(expected.item(), rel=1e-5)
        return TrainingReport(1, 2, 3.0, 4.0, 5.0)

    options = {"learning_rate": 0.02, "epochs": 2.5, "temperature": 3.0, "cosine": 0.3, "l1": 0.2, "l2": 0.1}
    assert merge("dam", adapters, [], options, SimpleNamespace(imitate=imitate)).report["updates"] == 1


def test_a_correction_of_other_modules_than_the_teachers_is_an_error(tiny_models):
    adapters = two_of(tiny_models["llama"])
    fewer = AdapterUpdates([adapter_of(tiny_models["llama"], "q", 1, 2, 1.0, ("q_proj",))], [1.0])
    with pytest.raises(ValueError, match="update different modules"):
        TaughtCorrection(fewer, adapters).corrected_paths  # noqa: B018


@pytest.mark.slow
def test_the_command_learns_from_the_set_of_each_adapter_with_its_own_request(run, workspace, tiny_models, monkeypatch):
    adapters, seen = two_of(tiny_models["llama"]), []
    store(workspace, adapters)
    imitate = SingleTaskExamples.imitate

    def watched(self: SingleTaskExamples, *told: object) -> TrainingReport:
        seen.extend(self.sequences)
        return imitate(self, *told)

    monkeypatch.setattr(SingleTaskExamples, "imitate", watched)
    run(f"{DAM}{OWN_SETS}--num_examples_merge 4 --do_predict")
    assert [one.merge_index for one in seen] == [0] * 4 + [1] * 4
    tokenizer = plan_of(f"{DAM}{OWN_SETS}--num_examples_merge 4", workspace).base.tokenizer
    asked = [tokenizer.decode(one.ids) for one in seen]
    assert all("Summarize the following" in text and "Translate" not in text for text in asked[:4])
    assert all("Translate the following" in text and "Summarize" not in text for text in asked[4:])
    results = read_json(workspace.results("e"))
    assert (results["method"], results["stages"]["test"]["counts"]["examples"]) == ("dam", 3)
    assert read_adapter(workspace.stored_model("e")).factors.keys() == adapters[0].factors.keys()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--merge_datasets pocket_dialogs ", "dam learns from the data of single tasks: --merge_datasets needs one set for each"),
        (
            "--merge_datasets pocket_dialogs pocket_dialogs_es ",
            "--merge_datasets pocket_dialogs_es: dam learns from single tasks, and this set is compositional",
        ),
        ("--merge_datasets pocket_dialogs pocket_dialogs ", "--merge_datasets names a data set twice"),
        (f"{OWN_SETS}--calibrate learnable_calibration ", "--calibrate contradicts --lora_merge_strategy dam"),
        (f"{OWN_SETS}--lora_merge_options temperature=0 ", "learning_rate, epochs and temperature must be above 0"),
        (f"{OWN_SETS}--lora_merge_options cosine=-1 ", "cosine, l1 and l2 at least 0"),
    ],
)
def test_what_dam_can_not_learn_from_is_refused_in_a_line(flags, expected, run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    assert expected in mistake_in(f"{DAM}{flags}--do_predict", run, workspace)


def test_without_data_the_line_says_what_is_needed(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    with pytest.raises(UserError, match="one set for each of --lora_merge_modules, in their order"):
        run(f"{DAM}--do_predict")
