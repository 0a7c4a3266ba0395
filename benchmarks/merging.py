"""Seconds of every merge strategy that needs no data, from disk to disk, beside PEFT's `add_weighted_adapter`.

    python -m benchmarks.merging

Merges two random adapters of the shape of Llama 3.2 1B (rank 32, all seven linear modules, float16: 22.5M parameters each). Ours is
reading both, merging and writing the result in float16; PEFT's is loading both onto a model, `add_weighted_adapter` and
`save_pretrained`. The model that PEFT needs has random bfloat16 weights and a vocabulary of 256; its making is not in PEFT's
seconds. PEFT writes float32, its default. A merge of PEFT's is stopped after `--peft_budget` seconds, at the end of a module. The
adapters were just written, so both read them from memory. Prints a Markdown table, line by line.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # PEFT would ask the hub about the base model when it saves

import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import read_adapter, write_adapter
from compositional.core.logs import quieten_libraries
from compositional.merging import merge, strategies

HIDDEN, KEYS_AND_VALUES, INNER, HEAD = 2048, 512, 8192, 64
MODULES = {  # d_out × d_in
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS_AND_VALUES, HIDDEN),
    "self_attn.v_proj": (KEYS_AND_VALUES, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
PEFT_TYPES = {f"peft_{kind}": kind for kind in ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties")}
NAMES = ["one", "other"]
WEIGHTS = [0.5, 0.5]
DENSITY = 0.5  # of our options the default, and PEFT's has none


def main() -> int:
    data_free = [name for name, strategy in strategies().items() if not strategy.learns]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=data_free, default=data_free, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=1, help="the median of so many is shown")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--peft_budget", type=int, default=300, help="seconds that one PEFT merge may take")
    options = parser.parse_args()
    quieten_libraries()
    warnings.filterwarnings("ignore")
    model = None
    with tempfile.TemporaryDirectory() as folder:
        adapters = [write_random_adapter(Path(folder) / name, options, seed) for seed, name in enumerate(NAMES)]
        if any(strategy in PEFT_TYPES for strategy in options.strategies):
            start = time.monotonic()
            model = base_model(options.layers)
            print(f"PEFT's base model: made in {time.monotonic() - start:.0f} s, in none of the figures below\n", flush=True)
        print("| strategy | seconds, ours | seconds, PEFT | PEFT / ours | relative truncation error |\n|---|---:|---:|---:|---:|")
        for strategy in options.strategies:
            print(line(strategy, adapters, model, Path(folder), options), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{torch.get_num_threads()} CPU threads, torch {torch.__version__}, peak memory {peak:.1f} GiB")
    return 0


def write_random_adapter(folder: Path, options: argparse.Namespace, seed: int) -> Path:
    torch.manual_seed(seed)
    factors = {
        f"model.layers.{layer}.{name}": LoraFactors(
            torch.randn(options.rank, d_in) * d_in**-0.5, torch.randn(d_out, options.rank) * 0.01, scaling=0.5
        )
        for layer in range(options.layers)
        for name, (d_out, d_in) in MODULES.items()
    }
    write_adapter(folder, LoraAdapter(folder.name, "random", factors), "float16")
    return folder


def base_model(layers: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=KEYS_AND_VALUES // HEAD,
        head_dim=HEAD,
        vocab_size=256,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def line(strategy: str, adapters: list[Path], model: Any, folder: Path, options: argparse.Namespace) -> str:
    """A line of the table."""
    seconds, error = [], None
    for _ in range(options.repeats):
        start = time.monotonic()
        merged = merge(strategy, [read_adapter(adapter) for adapter in adapters], WEIGHTS)
        write_adapter(folder / "ours" / strategy, merged, "float16")
        seconds.append(time.monotonic() - start)
        error = merged.report.get("relative_truncation_error")
    ours, lost = median(seconds), "—" if error is None else f"{error:.3f}"
    if strategy not in PEFT_TYPES:
        return f"| {strategy} | {ours:.2f} | — | — | {lost} |"
    try:
        theirs = median(
            seconds_of_peft(PEFT_TYPES[strategy], adapters, model, folder, options.peft_budget) for _ in range(options.repeats)
        )
    except TimeoutError:
        return f"| {strategy} | {ours:.2f} | > {options.peft_budget} | > {options.peft_budget / ours:.0f} | {lost} |"
    return f"| {strategy} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} | {lost} |"


def seconds_of_peft(kind: str, adapters: list[Path], model: Any, folder: Path, budget: int) -> float:
    """Leaves the model as it was; raises TimeoutError beyond the budget, when the module that PEFT is at is done."""
    from peft import PeftModel

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    start = time.monotonic()
    peft_model = PeftModel.from_pretrained(model, adapters[0], adapter_name=NAMES[0])
    try:
        signal.alarm(budget)
        peft_model.load_adapter(adapters[1], adapter_name=NAMES[1])
        peft_model.add_weighted_adapter(NAMES, WEIGHTS, "merged", combination_type=kind, density=DENSITY)
        peft_model.save_pretrained(folder / "peft" / kind, selected_adapters=["merged"])
        return time.monotonic() - start
    finally:
        signal.alarm(0)
        peft_model.unload()


if __name__ == "__main__":
    sys.exit(main())
