"""The experiments with their models loaded, and their answers token by token."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from compositional.core.logs import quieten_libraries
from compositional.data import Example
from compositional.demo.plan import DemoPlan, ShownExperiment
from compositional.experiment.examples import demonstrations, load_test_data
from compositional.models.chat import ChatEncoder
from compositional.prediction import PredictionSettings, make_generator
from compositional.prediction.vllm_backend import Engines

if TYPE_CHECKING:
    from compositional.prediction.predict import StreamingGenerator

logger = logging.getLogger(__name__)

_HALF_A_CHARACTER = "\ufffd"  # what the first bytes of a character are decoded to


@dataclass(frozen=True)
class Progress:
    """An answer so far.

    `texts` are those of each pass, the last one being the answer. `seconds` are over all passes, without waiting for another
    answer to end. `text_was_cut` says that a pass read only the beginning of its text, `answer_was_cut` that one reached the limit
    of new tokens.
    """

    experiment: str
    texts: list[str]
    seconds: float
    text_was_cut: bool
    answer_was_cut: bool
    done: bool


@dataclass(frozen=True)
class Method:
    """An experiment that can answer: what each pass is asked, and the model that answers it."""

    shown: ShownExperiment
    encoder: ChatEncoder
    settings: PredictionSettings
    generators: list[StreamingGenerator]
    examples: list[Example]

    def answer(self, text: str) -> Iterator[Progress]:
        """The answer so far, after each token; closing the iterator ends the work."""
        texts: list[str] = []
        seconds, text_was_cut, answer_was_cut = 0.0, False, False
        for request, generator in zip(self.shown.plan.requests, self.generators, strict=True):
            start = time.perf_counter()
            prompt = self.encoder.prompt(request, text, self.settings.max_prompt_length)
            text_was_cut |= prompt.truncated
            for answer in generator.stream(prompt.ids):
                seconds += time.perf_counter() - start
                said = [*texts, answer.text.rstrip(_HALF_A_CHARACTER)]
                yield Progress(self.shown.name, said, seconds, text_was_cut, answer_was_cut, done=False)
                start = time.perf_counter()
            text = answer.text
            texts.append(text)
            answer_was_cut |= answer.cut_off
        yield Progress(self.shown.name, texts, seconds, text_was_cut, answer_was_cut, done=True)


def load_methods(plan: DemoPlan, folder: Path) -> list[Method]:
    """Load the models, each once, however many experiments answer with it; raises UserError for data that is missing.

    `folder` is for files that an engine needs while it runs.
    """
    quieten_libraries()
    loaded: dict[tuple, StreamingGenerator] = {}
    return [_load(shown, loaded, folder) for shown in plan.experiments]


def _load(shown: ShownExperiment, loaded: dict[tuple, StreamingGenerator], folder: Path) -> Method:
    plan = shown.plan
    data = load_test_data(plan)
    encoder = ChatEncoder(plan.base.tokenizer, demonstrations(plan, data))
    settings = plan.prediction(encoder.demonstrations_length)
    generators = []
    for request, adapter in zip(plan.requests, shown.adapters or [None], strict=True):
        key = (plan.base.name, adapter and adapter.hash, settings)
        if key not in loaded:
            logger.info("loading %s: %s", shown.name, f"adapter {adapter.folder.name}" if adapter else plan.base.name)
            loaded[key] = make_generator(plan.base, adapter, settings, Engines(), folder / str(len(loaded)) / "run.log")
            # The first tokens of a model take longer than all others.
            list(islice(loaded[key].stream(encoder.prompt(request, "", settings.max_prompt_length).ids), 2))
        generators.append(loaded[key])
    return Method(shown, encoder, settings, generators, data.stages["test"].chosen)
