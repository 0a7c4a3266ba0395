"""Any chat model as translator or tone rewriter, by this project's own prompts, with or without a LoRA adapter.

The model answers greedily, by vLLM on a GPU and by transformers without one, as in an experiment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compositional.adapters.published import adapter_to_load, check_is_plain, check_published_adapter
from compositional.core.errors import UserError
from compositional.core.machine import device_name, resolve_dtype
from compositional.models.chat import ChatEncoder, instruction
from compositional.models.model import Model
from compositional.preparation.text_models import TextModelSettings, rewrite_in_pieces
from compositional.tasks import Task

TASKS = ("translation", "tone_adjustment")
REVISION = "7c1f4b0e5d8a49c3a6f2910b3e6d5478"
NEEDS_MODEL = True  # it has no default
LONGEST_OUTPUT = 512  # tokens
_FLAGS = {"translation": "--translator", "tone_adjustment": "--tone_rewriter"}


def text_model(task: Task, settings: TextModelSettings) -> ChatModel:
    """The chat model for a task; raises UserError when no model is named."""
    flag = _FLAGS[task.name]
    if not settings.model:
        raise UserError(f"{flag} chat needs a model: {flag}_model, a hub id or a folder")
    adapter = Model(settings.adapter, f"{flag}_adapter") if settings.adapter else None
    return ChatModel(task, Model(settings.model, f"{flag}_model"), adapter, settings)


class ChatModel:
    """A causal language model with a chat template, prompted as for a single task."""

    batch_size = 64

    def __init__(self, task: Task, base: Model, adapter: Model | None, settings: TextModelSettings) -> None:
        self.instruction = instruction((task,))
        self.base = base
        self.adapter = adapter
        self.settings = settings
        self._generator: Any = None

    def identity(self) -> dict[str, Any]:
        """Model, adapter, prompt and precision; see `TextModel`."""
        return {
            "model": self.base.identity_without_network,
            "adapter": self.adapter.identity_without_network if self.adapter else None,
            "instruction": self.instruction,
            "dtype": self.settings.dtype,
        }

    def check(self) -> None:
        """Raise UserError when model or adapter can't be had, or the model has no chat template; see `TextModel`."""
        self.base.check_exists()
        _ = self.base.config, self.base.tokenizer
        if self.adapter:
            check_published_adapter(self.adapter, may_convert=self.settings.converted is not None)
            check_is_plain(self.adapter)

    def start(self) -> None:
        """Load the model with its adapter; raises UserError when they don't fit together."""
        if self._generator is not None:
            return
        from compositional.prediction import PROMPTS_AT_A_TIME, PredictionSettings, make_generator, resolve_backend
        from compositional.prediction.vllm_backend import Engines

        self._encoder = ChatEncoder(self.base.tokenizer)
        longest = self.base.longest_sequence or 4 * LONGEST_OUTPUT
        output = min(LONGEST_OUTPUT, longest // 2)
        self._longest_prompt = longest - output
        # Room for an output that is longer than its text.
        overhead = self._encoder.check_room(self.instruction, self._longest_prompt)
        self._longest_text = min(self._longest_prompt - overhead, output * 3 // 4)
        backend = resolve_backend("auto")
        settings = PredictionSettings(
            backend, output, self._longest_prompt, PROMPTS_AT_A_TIME[backend], resolve_dtype(self.settings.dtype)
        )
        log = (self.settings.logs or Path(".")) / "vllm.log"
        stored = self._stored_adapter()
        if stored:
            self.base.check_updates(stored.shapes, f"{self.adapter.flag} {self.adapter.name}")
        self._engines = Engines()
        try:
            self._generator = make_generator(self.base, stored, settings, self._engines, log)
        except (RuntimeError, ValueError) as error:  # the adapter is of another base model
            reason = " ".join(str(error).split()[:40])
            named = self.adapter or self.base
            raise UserError(f"{named.flag} {named.name}: it can't be used with {self.base.name}: {reason}") from error
        self._dtype, self._backend = settings.dtype, backend

    def loaded(self) -> dict[str, Any]:
        """The hub's commit, the precision, the back end and the device of what was loaded."""
        return {"commit": self.base.commit, "dtype": self._dtype, "backend": self._backend, "device": device_name()}

    def stop(self) -> None:
        """Give the model's memory back."""
        if self._generator is None:
            return
        import gc

        self._generator = None
        self._engines.close()
        gc.collect()

    def rewrite(self, texts: list[str]) -> list[str]:
        """The model's answer to each text, long ones in pieces."""
        return rewrite_in_pieces(texts, self._length, self._longest_text, self._answers)

    def _answers(self, texts: list[str]) -> list[str]:
        prompts = [self._encoder.prompt(self.instruction, text, self._longest_prompt).ids for text in texts]
        return [answer.text for answer in self._generator.answers(prompts)]

    def _length(self, text: str) -> int:
        return len(self.base.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _stored_adapter(self) -> Any:
        from compositional.adapters.peft_folder import StoredAdapter

        if not self.adapter:
            return None
        adapter = adapter_to_load(self.adapter, self.settings.converted)
        if adapter.is_local:
            return StoredAdapter(Path(adapter.location))
        from huggingface_hub import snapshot_download

        files = ["adapter_config.json", "adapter_model.safetensors"]
        return StoredAdapter(Path(snapshot_download(adapter.location, revision=adapter.requested_revision, allow_patterns=files)))
