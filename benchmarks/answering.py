"""Ways to answer prompts greedily: this project's backends, and what a user would write with the libraries alone.

A way takes jobs and returns texts, in the order of the examples, and seconds. The seconds to load cover models, adapters and
engines with the imports that they need; those to predict cover everything else, such as encoding and decoding.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.prompts import Job
from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.logs import into_file
from compositional.models.chat import ChatEncoder
from compositional.models.model import Model
from compositional.prediction import PROMPTS_AT_A_TIME, AnswerReader, make_generator
from compositional.prediction.predict import Generator, predict_split
from compositional.prediction.vllm_backend import Engines, engine_settings

PIPELINE_BATCH = 8  # a usual choice


@dataclass
class Answers:
    """Texts of all jobs, and the seconds that they took."""

    texts: list[str] = field(default_factory=list)
    loading: float = 0.0
    predicting: float = 0.0

    @contextmanager
    def timed_loading(self) -> Iterator[None]:
        """Count the block as loading. It may stand inside a `timed_predicting` block."""
        start = time.monotonic()
        yield
        self.loading += time.monotonic() - start

    @contextmanager
    def timed_predicting(self) -> Iterator[None]:
        """Count the block as predicting, but for what it loads."""
        start, loaded = time.monotonic(), self.loading
        yield
        self.predicting += time.monotonic() - start - (self.loading - loaded)


Way = Callable[[list[Job]], Answers]


def by_backend(backend: str, folded: bool = False) -> Way:
    """As experiments of one process predict: a model per experiment with transformers, one engine for all with vLLM.

    With `folded`, the adapter is folded into a temporary copy of the model, which is then served without an adapter.
    """

    def answer(jobs: list[Job]) -> Answers:
        answers = Answers()
        highest = max((job.adapter.rank for job in jobs if job.adapter), default=0)
        with tempfile.TemporaryDirectory() as name, Engines(0 if folded else highest) as engines:
            folder = Path(name)
            for number, job in enumerate(jobs):
                settings = replace(job.settings, backend=backend, batch_size=PROMPTS_AT_A_TIME[backend])

                def start(job: Job = job, settings: Any = settings) -> Generator:
                    with answers.timed_loading():
                        base, adapter = (_folded(job, folder / "model"), None) if folded else (job.base, job.adapter)
                        return make_generator(base, adapter, settings, engines, folder / "vllm.log")

                with answers.timed_predicting():
                    path, encoder = folder / f"{number}.jsonl", ChatEncoder(job.base.tokenizer)
                    rows = predict_split(path, job.examples, job.instruction, encoder, settings, start, job.name)
                answers.texts += [row.output for row in rows]
        return answers

    return answer


def _folded(job: Job, folder: Path) -> Model:
    """A copy of the model with the adapter folded into its weights."""
    import torch

    with_peft(job.base, job.adapter, torch.float32).save_pretrained(folder)
    job.base.tokenizer.save_pretrained(folder)
    return Model(str(folder))


def with_peft(base: Model, adapter: StoredAdapter | None, dtype: Any) -> Any:
    """A model with the adapter folded into its weights, as PEFT's documentation shows."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.location, dtype=dtype)
    return PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload() if adapter else model


def by_pipeline(dtype: str) -> Way:
    """transformers' pipeline, loaded anew for each job."""

    def answer(jobs: list[Job]) -> Answers:
        answers = Answers()
        for job in jobs:
            with answers.timed_loading():
                import torch
                from transformers import AutoTokenizer, pipeline

                model = with_peft(job.base, job.adapter, getattr(torch, dtype))
                tokenizer = AutoTokenizer.from_pretrained(job.base.location)
                generate = pipeline("text-generation", model=model, tokenizer=tokenizer, batch_size=PIPELINE_BATCH)
            texts = [tokenizer.decode(prompt) for prompt in job.prompts]
            limit = job.settings.max_new_tokens
            with answers.timed_predicting():
                outputs = generate(texts, max_new_tokens=limit, do_sample=False, return_full_text=False)
                answers.texts += [output[0]["generated_text"].strip() for output in outputs]
        return answers

    return answer


def by_bare_engine(jobs: list[Job]) -> Answers:
    """vLLM's own engine with the settings of this project's. All prompts are handed to it at once, as token ids."""
    answers, (job,) = Answers(), jobs
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_NO_USAGE_STATS": "1"}
    prompts, ends = [{"prompt_token_ids": prompt} for prompt in job.prompts], AnswerReader(job.base, job.base.tokenizer).end_tokens
    with tempfile.TemporaryDirectory() as folder, into_file(Path(folder) / "vllm.log"):
        with answers.timed_loading():
            from vllm import LLM, SamplingParams
            from vllm.lora.request import LoRARequest

            settings = engine_settings(job.settings)
            lora = {"enable_lora": True, "max_lora_rank": job.adapter.rank, "max_loras": 1} if job.adapter else {}
            request = LoRARequest("adapter", 1, str(job.adapter.folder)) if job.adapter else None
            engine = LLM(
                job.base.location,
                dtype=settings.dtype,
                max_model_len=settings.max_model_len,
                enforce_eager=True,
                max_num_batched_tokens=512,
                generation_config="vllm",
                **lora,
            )
        with answers.timed_predicting():
            sampling = SamplingParams(temperature=0, max_tokens=job.settings.max_new_tokens, stop_token_ids=ends)
            outputs = engine.generate(prompts, sampling, lora_request=request, use_tqdm=False)
            answers.texts = [output.outputs[0].text.strip() for output in outputs]
        engine.llm_engine.engine_core.shutdown()
    return answers


def by_llama_cpp(gguf: Path, at_a_time: int = 8) -> Way:
    """llama.cpp's server in this process, some requests at a time, with a GGUF file of the same model and no adapter."""

    def answer(jobs: list[Job]) -> Answers:
        answers, (job,) = Answers(), jobs
        with answers.timed_loading():
            import xllamacpp

            parameters = xllamacpp.CommonParams()
            parameters.model.path = str(gguf)
            parameters.n_parallel = at_a_time
            parameters.n_ctx = at_a_time * engine_settings(job.settings).max_model_len
            server = xllamacpp.Server(parameters)

        def complete(prompt: list[int]) -> str:
            request = {"prompt": prompt, "n_predict": job.settings.max_new_tokens, "temperature": 0, "cache_prompt": False}
            return server.handle_completions(request)["choices"][0]["text"].strip()

        with answers.timed_predicting(), ThreadPoolExecutor(at_a_time) as threads:
            answers.texts = list(threads.map(complete, job.prompts))
        return answers

    return answer
