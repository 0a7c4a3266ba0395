"""The judges of this process: Pocket's grammar, and a model in a vLLM engine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from compositional.core.files import hash_of_json
from compositional.judge.question import Reply, Request, judge_prompt
from compositional.models.chat import ChatEncoder
from compositional.models.model import POCKET, Model
from compositional.pocket import GRADE_REVISION, GRAMMAR_REVISION
from compositional.pocket.meaning import Sentence
from compositional.prediction.vllm_backend import Engines
from compositional.prediction.vllm_engine import EngineSettings


class RuleJudge:
    """Says yes when an output says the event that Pocket meant, in the asked language or tone, and grades; see `pocket.rules`."""

    @property
    def identity(self) -> dict[str, Any]:
        """The rule judge and the revision of its grammar and grades."""
        return {"judge": "rule", "model": POCKET, "revision": hash_of_json([GRAMMAR_REVISION, GRADE_REVISION])}

    def start(self) -> None:
        """Nothing needs to start."""

    def replies(self, requests: list[Request]) -> list[Reply]:
        """Yes or no and a grade for each request; a failure for an input that is none of Pocket's."""
        return [_reply(request) for request in requests]


def _reply(request: Request) -> Reply:
    from compositional.pocket.rules import grade, says

    source = request.dataset.name.removeprefix("pocket_").split("_")[0]
    meaning = _meanings(source, request.split).get(request.input)
    if meaning is None:
        return Reply(failure="the input is none of Pocket's")
    style = "_".join(task.variant for task in request.dataset.tasks if task.variant) or "en"
    verdict = "yes" if says(request.output, meaning, style) else "no"
    return Reply(verdict, grade=grade(request.output, meaning, style))


@cache
def _meanings(source: str, split: str) -> dict[str, tuple[Sentence, ...]]:
    from compositional.pocket.examples import draw_examples

    return {example.input: example.meaning for example in draw_examples(source, split)}


_LONGEST_REPLY = 16  # tokens; "yes" takes no more in any vocabulary


class VllmJudge:
    """Asks a model with a chat template; its answer is held to "yes" or "no" and is the likeliest one (greedy)."""

    def __init__(self, model: Model, settings: EngineSettings, engines: Engines, log_path: Path) -> None:
        self._model, self._settings, self._engines, self._log_path = model, settings, engines, log_path
        self._tokenizer = model.tokenizer
        self._encoder = ChatEncoder(self._tokenizer)
        self._special_tokens = {id for id, token in self._tokenizer.added_tokens_decoder.items() if token.special}

    @property
    def identity(self) -> dict[str, Any]:
        """The model, its commit or a hash of its settings and shapes, its precision and its longest question."""
        limits = {"dtype": self._settings.dtype, "max_model_len": self._settings.max_model_len}
        return {"judge": "vllm", "model": self._model.name, "revision": self._model.signature} | limits

    def start(self) -> None:
        """Start vLLM, unless it runs for this model already."""
        self._engines.engine(self._model, self._settings, None, self._log_path)

    def replies(self, requests: list[Request]) -> list[Reply]:
        """Replies in the order of the requests; a prompt that doesn't fit is a failure, it is never cut."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        prompts = [self._encoder.question(judge_prompt(one.dataset.tasks, one.input, one.output)) for one in requests]
        failures = {index: reason for index, prompt in enumerate(prompts) if (reason := self._unfit(prompt, requests[index]))}
        asked = [index for index in range(len(prompts)) if index not in failures]
        found = {index: Reply(failure=reason) for index, reason in failures.items()}
        if asked:
            engine = self._engines.engine(self._model, self._settings, None, self._log_path)
            greedy = SamplingParams(
                temperature=0, max_tokens=_LONGEST_REPLY, structured_outputs=StructuredOutputsParams(choice=["yes", "no"])
            )
            outputs = engine.generate([prompts[index] for index in asked], greedy)
            found |= {index: Reply(output.text) for index, output in zip(asked, outputs, strict=True)}
        return [found[index] for index in range(len(requests))]

    def _unfit(self, prompt: list[int], request: Request) -> str | None:
        """Why a prompt can't be put to the model."""
        if len(prompt) + _LONGEST_REPLY > self._settings.max_model_len:
            return f"the question is longer than {self._settings.max_model_len} tokens (--max_model_len, or what the model takes)"
        empty = self._encoder.question(judge_prompt(request.dataset.tasks, "", ""))
        if self._specials_in(prompt) > self._specials_in(empty):
            return "the text has special tokens of the judge's chat template in it"
        return None

    def _specials_in(self, prompt: list[int]) -> int:
        return sum(token in self._special_tokens for token in prompt)
