"""A running vLLM engine that maps token ids to token ids with any stored adapter, and checks of what vLLM supports."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from compositional.adapters.lora import module_type
from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.errors import UserError, first_line
from compositional.core.logs import into_file, pass_messages_on
from compositional.core.machine import socket_folder
from compositional.core.processes import children_end_with_this_process, ctrl_c_is_heard
from compositional.models.model import Model

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput

logger = logging.getLogger(__name__)

RESERVE_BIASES = "reserve_biases"  # in vLLM's additional_config, which its workers read
_UNKNOWN = "unknown"  # the state of an engine that failed to change its calibration
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # forking a process that uses a GPU or threads may hang
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; on a GPU the cache uses the remaining share of the memory
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
}
_EXCEPTION = re.compile(r"(?:^|[\s\]])(?P<exception>(?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$")
_WITHOUT_LORA = ("lm_head", "embed_tokens")


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine. `max_model_len`: tokens of prompt and answer; `gpu_memory_utilization` is a share of each GPU."""

    dtype: str
    max_model_len: int
    gpu_memory_utilization: float
    tensor_parallel_size: int


class VllmEngine:
    """A model in vLLM's child processes, which run until `shutdown`.

    Args:
        model: a folder or a hub id.
        revision: the hub's commit.
        highest_rank: the highest rank of the adapters to support; 0 for no adapters.
        biases: give every linear layer a bias, whose values a calibration changes.
        eager: run without compilation and CUDA graphs.
        log_path: the file for the messages of vLLM's processes.

    Raises UserError when vLLM can't start, with its reason.
    """

    def __init__(
        self,
        model: str,
        revision: str | None,
        settings: EngineSettings,
        highest_rank: int,
        biases: bool,
        eager: bool,
        log_path: Path,
    ) -> None:
        self.highest_rank = allowed_rank(highest_rank)
        self.has_biases = biases
        self.is_dead = False
        self._ids: dict[str, int] = {}
        self._calibration: str | None = None
        adapters = {"enable_lora": True, "max_lora_rank": self.highest_rank, "max_loras": 1} if highest_rank else {}
        logger.info("starting vLLM for %s; its messages: %s", model, log_path)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path, start = log_path, _size(log_path)
        os.environ.setdefault("VLLM_RPC_BASE_PATH", socket_folder())
        try:
            with into_file(log_path), children_end_with_this_process(), ctrl_c_is_heard():
                self._llm = _start(model, revision, settings, biases, eager, adapters)
            pass_messages_on("vllm")
        except (RuntimeError, ValueError, OSError) as error:
            reason = _first_error(log_path, start) or first_line(error)
            raise UserError(f"vLLM could not start {model}: {reason}; its messages are in {log_path}") from error

    def generate(
        self, prompts: list[list[int]], sampling: SamplingParams, adapter: StoredAdapter | None = None
    ) -> list[CompletionOutput]:
        """One output per prompt (token ids), in their order. Raises UserError when vLLM's processes end unexpectedly."""
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.exceptions import EngineDeadError

        request = None
        if adapter:
            number = self._ids.setdefault(adapter.hash, len(self._ids) + 1)
            request = LoRARequest(adapter.hash, number, str(adapter.folder.resolve()))
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        start = _size(self._log_path)
        try:
            self._set_calibration(adapter if adapter and adapter.has_biases else None)
            outputs = self._llm.generate(inputs, sampling, lora_request=request, use_tqdm=False)
        except EngineDeadError as error:
            self.is_dead = True
            reason = _first_error(self._log_path, start) or first_line(error)
            raise UserError(f"vLLM died: {reason}; its messages are in {self._log_path}") from error
        return [output.outputs[0] for output in outputs]

    def _set_calibration(self, adapter: StoredAdapter | None) -> None:
        """Change the workers' biases, and reset the prefix cache, which was computed with other biases."""
        name = adapter.hash if adapter else None
        if name == self._calibration:
            return
        self._calibration = _UNKNOWN
        self._llm.collective_rpc("set_calibration", args=(str(adapter.folder.resolve()) if adapter else None,))
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which belongs to another calibration")
        self._calibration = name

    def shutdown(self) -> None:
        """End vLLM's processes and free their memory."""
        self._llm.llm_engine.engine_core.shutdown()


def check_vllm(model: Model, tensor_parallel_size: int) -> None:
    """Raise UserError when vLLM is not installed, or can't distribute the model over the requested GPUs."""
    import torch

    if not importlib.util.find_spec("vllm"):
        raise UserError("vLLM is not installed: make environment, or pip install vllm")
    gpus, heads = torch.cuda.device_count(), _heads(model)
    if tensor_parallel_size > max(1, gpus):
        raise UserError(f"--tensor_parallel_size {tensor_parallel_size}: {gpus} GPUs are visible (CUDA_VISIBLE_DEVICES)")
    if heads % tensor_parallel_size:
        raise UserError(
            f"--tensor_parallel_size {tensor_parallel_size}: {model.name} has {heads} attention heads, no multiple of it"
        )


def check_adapter(rank: int, module_paths: Iterable[str], dtype: str) -> None:
    """Raise UserError for an adapter that vLLM refuses because of its rank, its modules, or float32 on a GPU."""
    import torch

    allowed_rank(rank)
    if refused := sorted({module_type(path) for path in module_paths} & set(_WITHOUT_LORA)):
        raise UserError(f"vLLM takes no adapters of {' and '.join(refused)}")
    if rank and dtype == "float32" and torch.cuda.is_available():
        raise UserError("vLLM's LoRA on a GPU computes in bfloat16 or float16 only, not in float32")


def allowed_rank(rank: int) -> int:
    """The lowest `max_lora_rank` in vLLM that supports adapters of a rank; raises UserError when there is none."""
    if not rank:
        return 0
    from vllm.config.lora import MaxLoRARanks

    allowed = get_args(MaxLoRARanks)
    if rank > max(allowed):
        raise UserError(f"vLLM takes adapters up to rank {max(allowed)}, not {rank}")
    return min(limit for limit in allowed if limit >= rank)


def usable_gpus(model: Model) -> int:
    """The highest number of visible GPUs that a model can be distributed over, at least 1."""
    import torch

    heads = _heads(model)
    return max(number for number in range(1, max(1, torch.cuda.device_count()) + 1) if heads % number == 0)


def _heads(model: Model) -> int:
    return model.config.get_text_config().num_attention_heads


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _start(model: str, revision: str | None, settings: EngineSettings, biases: bool, eager: bool, adapters: dict[str, Any]) -> Any:
    import torch

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    return LLM(
        model,
        revision=revision,
        dtype=settings.dtype,
        load_format="safetensors",
        trust_remote_code=False,
        max_model_len=settings.max_model_len,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
        enforce_eager=eager,
        additional_config={RESERVE_BIASES: biases},
        # Otherwise the model's own sampling settings would apply where a request sets none.
        generation_config="vllm",
        worker_extension_cls="compositional.prediction.vllm_worker.CalibrationExtension",
        **adapters,
        # On a CPU, vLLM copies an adapter's factors for every token of a step, so large steps are limited by memory traffic.
        **({} if torch.cuda.is_available() else {"max_num_batched_tokens": 512}),
    )


def _first_error(log_path: Path, start: int) -> str | None:
    """The first exception in the log from byte `start` on, as reported by vLLM's processes. Later ones are its consequences."""
    if not log_path.is_file():
        return None
    with open(log_path, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    # vLLM's processes log fatal errors at level ERROR. Other tracebacks may belong to handled errors.
    errors = [line for line in lines if " ERROR " in line] or lines
    matches = (_EXCEPTION.search(line) for line in errors)
    return next((match.group("exception").strip() for match in matches if match), None)
