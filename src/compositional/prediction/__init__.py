"""Prediction: greedy decoding of a base model, with or without an adapter, by vLLM, transformers or llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compositional.models.chat import END_OF_THOUGHT, THOUGHT, ChatEncoder
from compositional.models.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compositional.adapters.peft_folder import StoredAdapter
    from compositional.prediction.predict import Generator
    from compositional.prediction.vllm_backend import Engines


@dataclass(frozen=True)
class PredictionSettings:
    """How answers are generated. Lengths are in tokens; `gpu_memory_utilization` and `tensor_parallel_size` are vLLM's.

    `llama_cpp_url` is the address of a running server, for the back end llama_cpp; its files have a precision of their own.
    """

    backend: str
    max_new_tokens: int
    max_prompt_length: int
    batch_size: int
    dtype: str
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    llama_cpp_url: str | None = None

    @property
    def longest_request(self) -> int:
        """The maximum number of tokens of a prompt and its answer."""
        return self.max_prompt_length + self.max_new_tokens


@dataclass(frozen=True)
class Answer:
    """A generated text. `cut_off` says that it reached the limit of new tokens before it ended.

    `tokens` are those before the token that ended it.
    """

    text: str
    cut_off: bool
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file. `intermediate` is the output of the last step but one, if there are several."""

    id: str
    input: str
    reference: str
    output: str
    prompt_truncated: bool
    output_cut_off: bool
    intermediate: str | None = None


class AnswerReader:
    """Decodes answers. They end at a token of the chat template or of the model's own generation settings."""

    def __init__(self, base: Model, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # A tokenizer may know tokens that the model can't say, which vLLM refuses.
        said = base.config.get_text_config().vocab_size
        self.end_tokens = sorted(token for token in ChatEncoder(tokenizer).end_tokens | base.end_tokens if token < said)

    def read(self, generated: list[int]) -> Answer:
        """The text before the first token that ends an answer, without the thought that it may begin with."""
        end = next((index for index, token in enumerate(generated) if token in self.end_tokens), None)
        text = self.tokenizer.decode(generated[:end], skip_special_tokens=True)
        if self.tokenizer.decode(generated[:1]).strip() == THOUGHT or text.lstrip().startswith(THOUGHT):
            text = self._without_thought(generated[:end])
        return Answer(text.strip(), end is None, tuple(generated[:end]))

    def _without_thought(self, generated: list[int]) -> str:
        """What follows a thought; nothing where it has no end."""
        _, _, text = self.tokenizer.decode(generated).partition(END_OF_THOUGHT)
        for special in self.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text


def no_numbers(who: str, dtype: str, flag: str) -> str:
    """The message for a model whose logits are no numbers, so that the likeliest token says nothing; `flag` sets its `dtype`."""
    remedy = "its weights, or the adapter's, are too large" if dtype == "float32" else f"{dtype} overflows, so use {flag} float32"
    return f"{who} answers with values that are no numbers (NaN or infinite logits): {remedy}"


VLLM, TRANSFORMERS, LLAMA_CPP = "vllm", "transformers", "llama_cpp"
# vLLM and llama.cpp schedule prompts themselves; transformers processes them as one batch.
PROMPTS_AT_A_TIME = {VLLM: 256, TRANSFORMERS: 64, LLAMA_CPP: 64}


def resolve_backend(requested: str) -> str:
    """The requested backend. "auto" is vLLM on a GPU, transformers otherwise."""
    import torch

    if requested != "auto":
        return requested
    return VLLM if torch.cuda.is_available() else TRANSFORMERS


def make_generator(
    base: Model, adapter: StoredAdapter | None, settings: PredictionSettings, engines: Engines, log_path: Path
) -> Generator:
    """A generator for the backend in the settings; raises UserError when it can't start."""
    if settings.backend == VLLM:
        from compositional.prediction.vllm_backend import VllmGenerator

        return VllmGenerator(base, adapter, settings, engines, log_path)
    if settings.backend == LLAMA_CPP:
        from compositional.prediction.llama_cpp_backend import LlamaCppGenerator, RemoteLlamaCppGenerator

        if settings.llama_cpp_url:
            return RemoteLlamaCppGenerator(base, adapter, settings)
        engines.make_room()
        return LlamaCppGenerator(base, adapter, settings, log_path.with_name("llama_cpp.log"))
    from compositional.prediction.transformers_backend import TransformersGenerator

    engines.make_room()
    return TransformersGenerator(base, adapter, settings)
