"""The judges of this process: Pocket's grammar, and a model by vLLM, transformers or llama.cpp."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError
from compositional.core.files import hash_of_json
from compositional.formats.gguf_forms import gguf_form, pre_tokenizer
from compositional.judge.question import Reply, Request, judge_prompt
from compositional.models.chat import ChatEncoder
from compositional.models.model import POCKET, Model
from compositional.pocket import GRADE_REVISION, GRAMMAR_REVISION
from compositional.pocket.meaning import Sentence
from compositional.prediction import no_numbers
from compositional.prediction.vllm_backend import Engines
from compositional.prediction.vllm_engine import EngineSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compositional.prediction.llama_cpp_backend import OwnServer


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
_ANSWERS = ("yes", "no")


class _Questions:
    """Questions to a model with a chat template, as token ids. Those that can't be put to it have a reason, and are never cut."""

    def __init__(self, model: Model, max_model_len: int) -> None:
        self._max_model_len = max_model_len
        self._encoder = ChatEncoder(model.tokenizer)
        self._special_tokens = {id for id, token in model.tokenizer.added_tokens_decoder.items() if token.special}

    def of(self, requests: list[Request]) -> tuple[dict[int, list[int]], dict[int, Reply]]:
        """By the request's number: the questions, and the failures of those that can't be asked."""
        prompts = {number: self._prompt(one, one.input, one.output) for number, one in enumerate(requests)}
        failures = {
            number: Reply(failure=reason)
            for number, prompt in prompts.items()
            if (reason := self._why_unfit(prompt, requests[number]))
        }
        return {number: prompt for number, prompt in prompts.items() if number not in failures}, failures

    def _prompt(self, request: Request, input: str, output: str) -> list[int]:
        return self._encoder.question(judge_prompt(request.dataset.tasks, input, output))

    def _why_unfit(self, prompt: list[int], request: Request) -> str | None:
        if len(prompt) + _LONGEST_REPLY > self._max_model_len:
            return f"the question is longer than {self._max_model_len} tokens (--max_model_len, or what the model takes)"
        if self._specials_in(prompt) > self._specials_in(self._prompt(request, "", "")):
            return "the text has special tokens of the judge's chat template in it"
        return None

    def _specials_in(self, prompt: list[int]) -> int:
        return sum(token in self._special_tokens for token in prompt)


class VllmJudge:
    """Asks a model with a chat template; its answer is held to "yes" or "no" and is the likeliest one (greedy)."""

    def __init__(self, model: Model, settings: EngineSettings, engines: Engines, log_path: Path) -> None:
        self._model, self._settings, self._engines, self._log_path = model, settings, engines, log_path
        self._questions = _Questions(model, settings.max_model_len)

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

        questions, found = self._questions.of(requests)
        if questions:
            engine = self._engines.engine(self._model, self._settings, None, self._log_path)
            greedy = SamplingParams(
                temperature=0, max_tokens=_LONGEST_REPLY, structured_outputs=StructuredOutputsParams(choice=list(_ANSWERS))
            )
            outputs = engine.generate(list(questions.values()), greedy)
            found |= {number: Reply(output.text) for number, output in zip(questions, outputs, strict=True)}
        return [found[number] for number in range(len(requests))]


class TransformersJudge:
    """Asks a model by transformers, question by question, so that a reply never depends on the others. Replies are `VllmJudge`'s.

    `dtype` is the name of a precision of torch. A greedy answer that can only be "yes" or "no" is decided by its first token: the
    likeliest that one of the words begins with. Raises UserError for a vocabulary without such tokens.
    """

    def __init__(self, model: Model, dtype: str, max_model_len: int) -> None:
        self._model, self._dtype, self._max_model_len = model, dtype, max_model_len
        self._questions = _Questions(model, max_model_len)
        vocabulary = model.tokenizer.get_vocab()
        beginnings = [(word[:length], word) for word in _ANSWERS for length in range(1, len(word) + 1)]
        self._word_of = {vocabulary[text]: word for text, word in beginnings if text in vocabulary}
        if set(self._word_of.values()) != set(_ANSWERS):
            raise UserError(f"{model.flag} {model.name}: its vocabulary has no token that yes or no begins with")

    @property
    def identity(self) -> dict[str, Any]:
        """The model, its commit or a hash of its settings and shapes, its precision and its longest question."""
        limits = {"dtype": self._dtype, "max_model_len": self._max_model_len}
        return {"judge": "transformers", "model": self._model.name, "revision": self._model.signature} | limits

    @cached_property
    def _loaded(self) -> PreTrainedModel:
        import torch

        return self._model.load(getattr(torch, self._dtype)).eval()

    def start(self) -> None:
        """Load the model. Raises UserError when it can't be loaded."""
        _ = self._loaded

    def replies(self, requests: list[Request]) -> list[Reply]:
        """Replies in the order of the requests; a prompt that doesn't fit is a failure, it is never cut."""
        questions, found = self._questions.of(requests)
        found |= {number: Reply(self._word(question)) for number, question in questions.items()}
        return [found[number] for number in range(len(requests))]

    def _word(self, question: list[int]) -> str:
        import torch

        tokens = list(self._word_of)
        with torch.inference_mode():
            ids = torch.tensor([question], device=self._loaded.device)
            logits = self._loaded(input_ids=ids, logits_to_keep=1).logits[0, -1, tokens]
        if not logits.max().isfinite():
            raise UserError(no_numbers(f"{self._model.flag} {self._model.name}", self._dtype, "--judge_dtype"))
        return self._word_of[tokens[int(logits.argmax())]]


class LlamaCppJudge:
    """Asks a model by llama.cpp, question by question, on the CPU. Its greedy answer is held to "yes" or "no" by a grammar.

    `dtype` is a precision of GGUF. Raises UserError for a model that llama.cpp would compute otherwise.
    """

    def __init__(self, model: Model, dtype: str, max_model_len: int, log_path: Path) -> None:
        gguf_form(model)
        pre_tokenizer(model.tokenizer)
        self._model, self._dtype, self._max_model_len, self._log_path = model, dtype, max_model_len, log_path
        self._questions = _Questions(model, max_model_len)

    @property
    def identity(self) -> dict[str, Any]:
        """The model, its commit or a hash of its settings and shapes, its precision and its longest question."""
        limits = {"dtype": self._dtype, "max_model_len": self._max_model_len}
        return {"judge": "llama_cpp", "model": self._model.name, "revision": self._model.signature} | limits

    @cached_property
    def _server(self) -> OwnServer:
        from compositional.prediction.llama_cpp_backend import OwnServer

        return OwnServer(self._model, None, self._dtype, self._max_model_len, self._log_path, slots=1)

    def start(self) -> None:
        """Write the model as a GGUF file, and load it."""
        _ = self._server

    def replies(self, requests: list[Request]) -> list[Reply]:
        """Replies in the order of the requests; a prompt that doesn't fit is a failure, it is never cut."""
        questions, found = self._questions.of(requests)
        found |= {number: Reply(self._word(question)) for number, question in questions.items()}
        return [found[number] for number in range(len(requests))]

    def _word(self, question: list[int]) -> str:
        grammar = "root ::= " + " | ".join(f'"{word}"' for word in _ANSWERS)
        return self._server.complete(question, _LONGEST_REPLY, grammar=grammar)["content"]
