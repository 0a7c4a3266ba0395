"""A compiled vLLM engine answers with the calibration that was set last: biases are changed in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compositional.adapters.peft_folder import StoredAdapter, read_shapes, write_adapter
from compositional.calibration import LC
from compositional.calibration.parameters import fold_biases, read_biases
from compositional.models.model import Model
from compositional.prediction.vllm_engine import EngineSettings, VllmEngine
from compositional.training.compilation import missing_compiler
from helpers.calibrating import random_calibration, random_merge

PROMPTS = [[5, 6, 7, 8, 9], [40, 30, 20, 10], [11, 12, 13, 14, 15, 16, 17]]
NEW_TOKENS = 12


@pytest.mark.slow(60)
@pytest.mark.skipif(missing_compiler() is not None, reason=f"torch.compile: {missing_compiler()}")
def test_two_calibrations_one_after_the_other_give_their_own_texts(tiny_models, tmp_path):
    """Without LoRA, with which vLLM compiles no model on a CPU: the calibrations are of the base model."""
    if torch.cuda.is_available():
        pytest.skip("tests/gpu has a calibration on a compiled engine of a GPU")
    from vllm import SamplingParams
    from vllm.config import CompilationMode

    model = Model(str(tiny_models["llama"]))
    folders = [None, _stored_calibration(model, 1, tmp_path), _stored_calibration(model, 2, tmp_path)]
    settings = EngineSettings("float32", 64, 0.5, 1)
    engine = VllmEngine(model.location, None, settings, highest_rank=0, biases=True, eager=False, log_path=tmp_path / "vllm.log")
    try:
        assert engine._llm.llm_engine.vllm_config.compilation_config.mode != CompilationMode.NONE
        greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
        said = []
        for folder in (*folders, folders[1], None):
            engine._set_calibration(StoredAdapter(folder) if folder else None)
            prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
            outputs = engine._llm.generate(prompts, greedy, use_tqdm=False)
            said.append([list(output.outputs[0].token_ids) for output in outputs])
    finally:
        engine.shutdown()
    expected = [_greedy(model, folder) for folder in folders]
    assert said == [*expected, expected[1], expected[0]]
    assert expected[0] != expected[1] != expected[2] != expected[0]


def _stored_calibration(model: Model, seed: int, tmp_path: Path) -> Path:
    """The folder of an adapter with large random biases."""
    merged, folder = random_merge(Path(model.location)), tmp_path / f"calibration{seed}"
    calibration = random_calibration(merged, LC)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in calibration.p.values():
            p.normal_(std=2.0)
    write_adapter(folder, merged, "float32")
    calibration.write(folder, "float32")
    return folder


def _greedy(model: Model, folder: Path | None) -> list[list[int]]:
    """What transformers says, one prompt at a time, with the biases of a folder in the base model."""
    loaded = model.load(torch.float32)
    if folder:
        fold_biases(loaded, read_biases(folder, read_shapes(folder)))
    said = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            for _ in range(NEW_TOKENS):
                ids = torch.cat([ids, loaded(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        said.append(ids[0, len(prompt) :].tolist())
    return said
