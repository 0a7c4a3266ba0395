"""llama.cpp's server with an export, started as the export's record says, in float32 throughout, and with odd sampling."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xllamacpp

from compositional.core.files import read_json
from compositional.export.plan import RECORD
from compositional.prediction.llama_cpp_server import complete


@contextmanager
def served(folder: Path, *, without: tuple[str, ...] = ()) -> Iterator[str]:
    """The server's address; `without` names words of the command that are left out, each with its value."""
    words = shlex.split(read_json(folder / RECORD)["serve"])[1:]
    parameters = xllamacpp.CommonParams()
    parameters.n_parallel = parameters.cpuparams.n_threads = 1
    parameters.verbosity = 0
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    sampling = parameters.sampling  # what a server was started with must not matter to greedy requests
    sampling.penalty_repeat, sampling.penalty_present, sampling.penalty_freq, sampling.dry_multiplier = 1.5, 0.5, 0.5, 1.0
    sampling.typ_p, sampling.xtc_probability, sampling.xtc_threshold, sampling.dynatemp_range = 0.5, 1.0, 0.01, 1.0
    sampling.ignore_eos, sampling.mirostat = True, 2
    adapters = []
    while words:
        word = words.pop(0)
        if word == "--lora-init-without-apply":
            parameters.lora_init_without_apply = True
            continue
        value = words.pop(0)
        if word in without:
            continue
        if word == "-m":
            parameters.model.path = str(folder / value)
        elif word == "--lora":
            adapters.append(xllamacpp.CommonAdapterLoraInfo(str(folder / value), 1.0))
        elif word == "--alias":
            parameters.model_alias = {value}
        else:
            assert word == "-c"
            parameters.n_ctx = int(value)
    parameters.lora_adapters = adapters
    server = xllamacpp.Server(parameters)
    complete(server.listening_address, [1], 1)  # closing it before its first request can hang
    yield server.listening_address
