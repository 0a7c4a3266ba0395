"""Greedy generation by llama.cpp, the engine of devices: by its server in this process, or by one that runs elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import torch

from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration.parameters import read_biases
from compositional.core.errors import UserError
from compositional.core.logs import into_file
from compositional.core.processes import holding, is_held
from compositional.core.servers import NoAnswerError
from compositional.formats.gguf import write_base, write_lora
from compositional.formats.gguf_forms import gguf_form
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, PredictionSettings
from compositional.prediction.llama_cpp_server import FLAG, check_served, complete, served_model, stream

SLOTS = 4  # requests at a time
_TEMPORARY, _MARK = ".gguf-", "in_use"


class OwnServer:
    """llama.cpp's server in this process, with a model and an adapter (or none) as GGUF files.

    The files are written to a temporary folder beside the log, in a precision of GGUF, with keys and values in float32. Flash
    attention is off and prompts are not cached, so that in float32 the texts are those of transformers. `longest` is the number of
    tokens of prompt and answer, `slots` the number of requests at a time.
    """

    def __init__(
        self, base: Model, adapter: StoredAdapter | None, dtype: str, longest: int, log_path: Path, slots: int = SLOTS
    ) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        for mark in log_path.parent.glob(f"{_TEMPORARY}*/{_MARK}"):
            if not is_held(mark):  # its run was killed
                shutil.rmtree(mark.parent, ignore_errors=True)
        self._folder = tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=log_path.parent, ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self._in_use = ExitStack()  # for as long as this server is there
        self._in_use.enter_context(holding(folder / _MARK))
        biases = read_biases(adapter.folder, adapter.shapes) if adapter else {}
        files = write_base(folder / "base.gguf", base, dtype, biases)
        if adapter:
            write_lora(folder / "adapter.gguf", gguf_form(base), adapter.read(), dtype)
        with into_file(log_path):
            self._server = _start(files[0], folder / "adapter.gguf" if adapter else None, longest, slots)
            self.complete([0], 1)  # closing a server before its first request can hang

    def complete(self, prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
        """See `llama_cpp_server.complete`."""
        return complete(self._server.listening_address, prompt, tokens, **more)

    def stream(self, prompt: list[int], tokens: int) -> Iterator[dict[str, Any]]:
        """See `llama_cpp_server.stream`."""
        return stream(self._server.listening_address, prompt, tokens)


class LlamaCppGenerator:
    """A base model with an adapter (or none) that answers batches of prompts, by a server of this process."""

    made_with: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings, log_path: Path) -> None:
        self._reader = AnswerReader(base, base.tokenizer)
        self._max_new_tokens = settings.max_new_tokens
        self._server = OwnServer(base, adapter, settings.dtype, settings.longest_request, log_path)

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order."""

        def answer(prompt: list[int]) -> Answer:
            return self._reader.read(self._server.complete(prompt, self._max_new_tokens)["tokens"])

        with ThreadPoolExecutor(SLOTS) as threads:
            return list(threads.map(answer, prompts))

    def stream(self, prompt: list[int]) -> Iterator[Answer]:
        """The answer to one prompt (token ids) so far, after each token; closing the iterator ends the work.

        It has no tokens: the server streams whole characters, and leaves out all tokens of a character but the last.
        """
        text, ended = "", False
        for event in self._server.stream(prompt, self._max_new_tokens):
            ended = any(token in self._reader.end_tokens for token in event["tokens"])
            text += "" if ended else event["content"]
            yield Answer(text.strip(), cut_off=not ended)
            if ended:
                return


class RemoteLlamaCppGenerator:
    """A base model with an adapter (or none) that answers batches of prompts, by a llama-server that the user has started.

    Each request names the adapter. Raises UserError when no server answers, or it does not serve what is needed.
    """

    def __init__(self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings) -> None:
        self._reader = AnswerReader(base, base.tokenizer)
        self._max_new_tokens = settings.max_new_tokens
        self._served = served_model(settings.llama_cpp_url)
        check_served(self._served, base, [adapter] if adapter else [], settings.longest_request)
        self._scales = self._served.scales(adapter)
        self.made_with = self._served.record

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order."""

        def answer(prompt: list[int]) -> Answer:
            done = complete(self._served.address, prompt, self._max_new_tokens, lora=self._scales)
            return self._reader.read(done["tokens"])

        try:
            with ThreadPoolExecutor(self._served.slots) as threads:
                return list(threads.map(answer, prompts))
        except NoAnswerError as error:
            raise UserError(f"{FLAG} {error}; the same command goes on where it stopped") from error


def _start(model: Path, adapter: Path | None, longest: int, slots: int) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.verbosity = 0  # its messages would run through the progress bar
    parameters.n_parallel = slots
    parameters.n_ctx = slots * (longest + 1)
    parameters.cpuparams.n_threads = torch.get_num_threads()
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(parameters)
