"""One running vLLM engine: token ids in, token ids out, with any stored adapter."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.engine import EngineSettings, ServedAdapter
from src.engine.checks import allowed_rank
from src.engine.lifeline import children_end_with_this_process, ctrl_c_is_heard
from src.errors import UserError, first_line
from src.logs import into_file, pass_messages_on

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput

logger = logging.getLogger(__name__)

_UNKNOWN = "unknown"  # the calibration of an engine that failed to change it
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with a GPU, or with threads, may hang
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; on a GPU the cache takes the memory's share that is left
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
}


_EXCEPTION = re.compile(r"(?:^|[\s\]])(?P<exception>(?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$")


class VllmEngine:
    """A model in vLLM's child processes, until `shutdown`.

    Args:
        model: a folder or a hub id.
        revision: the hub's commit.
        highest_rank: of the adapters it must take, 0 for none.
        eager: run without compilation and CUDA graphs, which would not see that a calibration changes biases.
        log_path: where the messages of vLLM's processes go.

    Raises UserError when vLLM can't start, with its reason.
    """

    def __init__(
        self, model: str, revision: str | None, settings: EngineSettings, highest_rank: int, eager: bool, log_path: Path
    ) -> None:
        self.highest_rank = allowed_rank(highest_rank)
        self.eager = eager
        self.is_dead = False
        self._ids: dict[str, int] = {}
        self._calibration: str | None = None
        adapters = {"enable_lora": True, "max_lora_rank": self.highest_rank, "max_loras": 1} if highest_rank else {}
        logger.info("starting vLLM for %s; its messages: %s", model, log_path)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path, start = log_path, _size(log_path)
        try:
            with into_file(log_path), children_end_with_this_process(), ctrl_c_is_heard():
                self._llm = _start(model, revision, settings, eager, adapters)
            pass_messages_on("vllm")
        except (RuntimeError, ValueError, OSError) as error:
            reason = _first_error(log_path, start) or first_line(error)
            raise UserError(f"vLLM could not start {model}: {reason}; its messages are in {log_path}") from error

    def generate(
        self, prompts: list[list[int]], sampling: SamplingParams, adapter: ServedAdapter | None = None
    ) -> list[CompletionOutput]:
        """One output per prompt of token ids, in their order. Raises UserError when vLLM's processes end on their way."""
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.exceptions import EngineDeadError

        request = None
        if adapter:
            number = self._ids.setdefault(adapter.name, len(self._ids) + 1)
            request = LoRARequest(adapter.name, number, str(adapter.folder))
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        start = _size(self._log_path)
        try:
            self._set_calibration(adapter if adapter and adapter.has_biases else None)
            outputs = self._llm.generate(asked, sampling, lora_request=request, use_tqdm=False)
        except EngineDeadError as error:
            self.is_dead = True
            reason = _first_error(self._log_path, start) or first_line(error)
            raise UserError(f"vLLM died: {reason}; its messages are in {self._log_path}") from error
        return [output.outputs[0] for output in outputs]

    def _set_calibration(self, adapter: ServedAdapter | None) -> None:
        """Change the workers' biases, and forget the prefixes that were computed with others."""
        name = adapter.name if adapter else None
        if name == self._calibration:
            return
        self._calibration = _UNKNOWN
        self._llm.collective_rpc("set_calibration", args=(str(adapter.folder) if adapter else None,))
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which belongs to another calibration")
        self._calibration = name

    def shutdown(self) -> None:
        """End vLLM's processes and free their memory."""
        self._llm.llm_engine.engine_core.shutdown()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _start(model: str, revision: str | None, settings: EngineSettings, eager: bool, adapters: dict[str, Any]) -> Any:
    import torch

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    return LLM(
        model,
        revision=revision,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
        enforce_eager=eager,
        # The model's own sampling settings would fill in what a request leaves open.
        generation_config="vllm",
        worker_extension_cls="src.engine.worker.CalibrationExtension",
        **adapters,
        # On a CPU, vLLM copies an adapter's factors for every token of a step: large steps spend their time on memory.
        **({} if torch.cuda.is_available() else {"max_num_batched_tokens": 512}),
    )


def _first_error(log_path: Path, start: int) -> str | None:
    """The first exception that vLLM's processes reported after a place in the log: those that follow are its consequences."""
    if not log_path.is_file():
        return None
    with open(log_path, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    # vLLM's processes report what ends them at level ERROR; other tracebacks may have been dealt with.
    errors = [line for line in lines if " ERROR " in line] or lines
    found = (_EXCEPTION.search(line) for line in errors)
    return next((match.group("exception").strip() for match in found if match), None)
