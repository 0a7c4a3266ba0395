"""Tones by RedPajama-INCITE-Base-3B with the llm-toys adapter, the paper's rewriter by its later code base.

Prompt layout, greedy decoding, 512 new tokens and the end marker are those of that code base; it quantized the model to 4 bits,
which is left out here.
"""

from __future__ import annotations

from typing import Any

from compositional.adapters.published import adapter_to_load, check_is_plain, check_published_adapter
from compositional.core.errors import UserError
from compositional.models.model import Model
from compositional.preparation.text_models import LoadedModel, TextModelSettings, rewrite_in_pieces
from compositional.tasks import Task

TASKS = ("tone_adjustment",)
REVISION = "972a280dcf9253820a328f390db690d4b4cba3efb7b3ddf44623992c482f9cfc"
DEFAULT_MODEL = "togethercomputer/RedPajama-INCITE-Base-3B-v1"
DEFAULT_ADAPTER = "llm-toys/RedPajama-INCITE-Base-3B-v1-paraphrase-tone"
PROMPT = "### Instruction:\nChange the tone of the following Input sentence to {tone}.\n\n### Input:\n{text}\n\n### Response:\n"
END = "### END"
LONGEST_OUTPUT = 512  # tokens


def text_model(task: Task, settings: TextModelSettings) -> ToneRewriter:
    """The tone rewriter for a task of tone adjustment."""
    model = Model(settings.model or DEFAULT_MODEL, "--tone_rewriter_model")
    adapter = Model(settings.adapter or DEFAULT_ADAPTER, "--tone_rewriter_adapter")
    return ToneRewriter(task.variant, model, adapter, settings)


class ToneRewriter(LoadedModel):
    """A GPT-NeoX model with a LoRA adapter, on this process's GPU if there is one."""

    batch_size = 32

    def __init__(self, tone: str, published: Model, adapter: Model, settings: TextModelSettings) -> None:
        self.tone = tone
        self.published = published
        self.adapter = adapter
        self.settings = settings

    def identity(self) -> dict[str, Any]:
        """Model, adapter, tone and precision; see `TextModel`."""
        return {
            "model": self.published.identity_without_network,
            "adapter": self.adapter.identity_without_network,
            "tone": self.tone,
            "dtype": self.settings.dtype,
        }

    def check(self) -> None:
        """Raise UserError when model or adapter can't be had; see `TextModel`."""
        self.published.check_exists()
        self.published.check_has("tokenizer.json")
        _ = self.published.config  # which a hub may refuse
        check_published_adapter(self.adapter, may_convert=self.settings.converted is not None)
        check_is_plain(self.adapter)

    def start(self) -> None:
        """Load the model with its adapter folded in; raises UserError when they don't fit together."""
        if self.model is not None:
            return
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = self.published.load_as(AutoTokenizer, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        base = self.published.load_as(AutoModelForCausalLM, self.settings.dtype)
        adapter = adapter_to_load(self.adapter, self.settings.converted)
        try:
            with_adapter = PeftModel.from_pretrained(base, adapter.location, revision=adapter.requested_revision)
        except (OSError, ValueError, RuntimeError) as error:  # it is of another base model
            reason = f"it can't be used with {self.published.name}: {' '.join(str(error).split()[:40])}"
            raise UserError(f"{self.adapter.flag} {self.adapter.name}: {reason}") from error
        self.published.check_updates(with_adapter.targeted_module_names, f"{self.adapter.flag} {self.adapter.name}")
        self.model = with_adapter.merge_and_unload()
        longest = self.model.config.max_position_embeddings
        self.longest_output = min(LONGEST_OUTPUT, longest // 2)
        # Room for an output that is longer than its text.
        self.longest_text = min(longest - self.longest_output - self._length(self._prompt("")), self.longest_output * 3 // 4)

    def rewrite(self, texts: list[str]) -> list[str]:
        """Each text in the tone, long ones in pieces."""
        return rewrite_in_pieces(texts, self._length, self.longest_text, self._rewrite)

    def _prompt(self, text: str) -> str:
        return PROMPT.format(tone=self.tone, text=text)

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text)["input_ids"])

    def _rewrite(self, texts: list[str]) -> list[str]:
        import torch

        prompts = [self._prompt(text) for text in texts]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        with torch.inference_mode():
            ids = self.model.generate(
                **batch.to(self.model.device),
                max_new_tokens=self.longest_output,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                stop_strings=[END],
                tokenizer=self.tokenizer,
            )
        answers = self.tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return [answer.partition(END)[0].strip() for answer in answers]
