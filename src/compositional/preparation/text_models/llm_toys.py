"""Tones by RedPajama-INCITE-Base-3B with the llm-toys adapter, the paper's rewriter by its later code base.

Prompt layout, greedy decoding, 512 new tokens and the end marker are those of that code base; it quantized the model to 4 bits,
which is left out here.
"""

from __future__ import annotations

from typing import Any

from compositional.core.errors import UserError
from compositional.models.published import PublishedModel
from compositional.preparation.text_models import LoadedModel, TextModelSettings, rewrite_in_pieces
from compositional.tasks import Task

TASKS = ("tone_adjustment",)
REVISION = "972a280dcf9253820a328f390db690d4b4cba3efb7b3ddf44623992c482f9cfc"
DEFAULT_MODEL = "togethercomputer/RedPajama-INCITE-Base-3B-v1"
DEFAULT_ADAPTER = "llm-toys/RedPajama-INCITE-Base-3B-v1-paraphrase-tone"
PROMPT = "### Instruction:\nChange the tone of the following Input sentence to {tone}.\n\n### Input:\n{text}\n\n### Response:\n"
END = "### END"
LONGEST_OUTPUT = 512  # tokens
_MODEL_FLAG, _ADAPTER_FLAG = "--tone_rewriter_model", "--tone_rewriter_adapter"


def text_model(task: Task, settings: TextModelSettings) -> ToneRewriter:
    published = PublishedModel(settings.model or DEFAULT_MODEL)
    return ToneRewriter(task.variant, published, PublishedModel(settings.adapter or DEFAULT_ADAPTER), settings)


class ToneRewriter(LoadedModel):
    """A GPT-NeoX model with a LoRA adapter, on this process's GPU if there is one."""

    batch_size = 32

    def __init__(self, tone: str, published: PublishedModel, adapter: PublishedModel, settings: TextModelSettings) -> None:
        self.tone = tone
        self.published = published
        self.adapter = adapter
        self.settings = settings

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.published.identity(),
            "adapter": self.adapter.identity(),
            "tone": self.tone,
            "dtype": self.settings.dtype,
        }

    def check(self) -> None:
        from compositional.models.published import check_adapter, check_files, check_published

        check_published(self.published, _MODEL_FLAG)
        check_files(self.published, _MODEL_FLAG, "tokenizer.json")
        check_adapter(self.adapter, _ADAPTER_FLAG, may_convert=self.settings.converted is not None)

    def start(self) -> None:
        if self.model is not None:
            return
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from compositional.models.published import adapter_to_load, load_published

        self.tokenizer = load_published(AutoTokenizer, self.published, _MODEL_FLAG, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        base = load_published(AutoModelForCausalLM, self.published, _MODEL_FLAG, self.settings.dtype)
        adapter = adapter_to_load(self.adapter, _ADAPTER_FLAG, self.settings.converted)
        try:
            with_adapter = PeftModel.from_pretrained(base, adapter.location, revision=adapter.revision)
        except (OSError, ValueError, RuntimeError) as error:  # it is of another base model
            reason = f"it can't be used with {self.published.name}: {' '.join(str(error).split()[:40])}"
            raise UserError(f"{_ADAPTER_FLAG} {self.adapter.name}: {reason}") from error
        self.model = with_adapter.merge_and_unload()
        longest = self.model.config.max_position_embeddings
        self.longest_output = min(LONGEST_OUTPUT, longest // 2)
        # Room for an output that is longer than its text.
        self.longest_text = min(longest - self.longest_output - self._length(self._prompt("")), self.longest_output * 3 // 4)

    def rewrite(self, texts: list[str]) -> list[str]:
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
