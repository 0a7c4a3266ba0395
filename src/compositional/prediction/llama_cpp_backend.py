"""Greedy generation by llama.cpp, the engine of devices: its server, in this process, with the model as GGUF files."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import torch

from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration.parameters import read_biases
from compositional.core.logs import into_file
from compositional.formats.gguf import write_base, write_lora
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, PredictionSettings

SLOTS = 4  # requests at a time
_TEMPORARY = ".gguf-"
_EVENT = b"data: "
_LONGEST_WAIT = 3600  # seconds for one answer


class LlamaCppGenerator:
    """A base model with an adapter (or none) that answers batches of prompts.

    The files are written to a temporary folder beside the log, in the precision of the settings, with keys and values in float32.
    Flash attention is off and prompts are not cached, so that in float32 the texts are those of transformers.
    """

    def __init__(self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings, log_path: Path) -> None:
        self.reader = AnswerReader(base, base.tokenizer)
        self.max_new_tokens = settings.max_new_tokens
        log_path.parent.mkdir(parents=True, exist_ok=True)
        for left in log_path.parent.glob(f"{_TEMPORARY}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._folder = tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=log_path.parent, ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        biases = read_biases(adapter.folder, adapter.shapes) if adapter else {}
        files = write_base(folder / "base.gguf", base, settings.dtype, biases)
        if adapter:
            write_lora(folder / "adapter.gguf", base, adapter.read(), settings.dtype)
        with into_file(log_path):
            self._server = _start(files[0], folder / "adapter.gguf" if adapter else None, settings)
            self._ask([0], 1)  # closing a server before its first request can hang

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order."""
        with ThreadPoolExecutor(SLOTS) as threads:
            return list(threads.map(lambda prompt: self.reader.read(self._ask(prompt, self.max_new_tokens)), prompts))

    def stream(self, prompt: list[int]) -> Iterator[Answer]:
        """The answer to one prompt (token ids) so far, after each token; closing the iterator ends the work.

        It has no tokens: the server streams whole characters, and leaves out all tokens of a character but the last.
        """
        text, ended = "", False
        with _post(self._server.listening_address, prompt, self.max_new_tokens, stream=True) as lines:
            while not ended and (line := lines.readline()):
                if line.startswith(_EVENT):
                    event = json.loads(line.removeprefix(_EVENT))
                    ended = any(token in self.reader.end_tokens for token in event["tokens"])
                    text += "" if ended else event["content"]
                    yield Answer(text.strip(), cut_off=not ended)

    def _ask(self, prompt: list[int], tokens: int) -> list[int]:
        """The most likely continuation, up to an end token or the limit."""
        return complete(self._server.listening_address, prompt, tokens)["tokens"]


def complete(address: str, prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    """The server's greedy answer to a prompt (token ids), with its `tokens` and `timings`; no proxy is asked."""
    with _post(address, prompt, tokens, **more) as answer:
        return json.loads(answer.read())


def _post(address: str, prompt: list[int], tokens: int, **more: Any) -> HTTPResponse:
    wanted = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": False, "return_tokens": True, **more}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/completion", data=json.dumps(wanted).encode(), headers=headers)
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return directly.open(request, timeout=_LONGEST_WAIT)


def _start(model: Path, adapter: Path | None, settings: PredictionSettings) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.verbosity = 0  # its messages would run through the progress bar
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * (settings.max_prompt_length + settings.max_new_tokens + 1)
    parameters.cpuparams.n_threads = torch.get_num_threads()
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(parameters)
