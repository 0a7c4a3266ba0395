"""The flags of `prepare_compositional_task_data.sh`."""

from __future__ import annotations

from dataclasses import dataclass

from src.flags import build_parser, flag, parse

PAPER_MODELS = ("meta-llama/Llama-3.2-1B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", "stabilityai/stablelm-2-1_6b-chat")


@dataclass
class PreparationArguments:
    """Which sets are made, of what, and how."""

    only: list[str] = flag(
        (), "what", "make these sets, or those of a pattern such as 'tedtalks_*'; default: the paper's", repeatable=True
    )
    pocket: bool = flag(False, "what", "make Pocket's sets: no network is needed")
    dry_run: bool = flag(False, "what", "say what would be made, from what, and how large; write nothing")
    overwrite: bool = flag(False, "what", "make anew what is made already, rewritten texts included")

    raw_data_dir: str | None = flag(None, "sources", "folder with the publishers' own files; default: the hub")
    max_train_examples: int | None = flag(None, "sources", "keep a seeded sample of this many training examples of each source")
    data_seed: int = flag(42, "sources", "seed of that sample", "sibling")

    translator: str | None = flag(None, "text models", "what translates; default: marian, and pocket for Pocket's sets", "sibling")
    translator_model: str | None = flag(
        None,
        "text models",
        "hub id, hub id@revision or folder, {language} for es, fr or de; default: Helsinki-NLP/opus-mt-en-{language}",
    )
    tone_rewriter: str | None = flag(
        None, "text models", "what changes the tone; default: llm_toys, and pocket for Pocket's sets", "sibling"
    )
    tone_rewriter_model: str | None = flag(
        None, "text models", "hub id, hub id@revision or folder; default: togethercomputer/RedPajama-INCITE-Base-3B-v1"
    )
    tone_rewriter_adapter: str | None = flag(
        None, "text models", "its LoRA adapter; default: llm-toys/RedPajama-INCITE-Base-3B-v1-paraphrase-tone"
    )
    convert_pickled_adapter: bool = flag(
        False, "text models", "where an adapter's publishers have a pickle only, read its tensors and keep them as safetensors"
    )
    text_model_dtype: str = flag(
        "auto",
        "text models",
        "precision of the text models; auto: bfloat16 on a GPU (float16 on an older one), float32 otherwise",
        choices=("auto", "float32", "bfloat16", "float16"),
    )

    drop: list[str] = flag((), "quality", "leave out examples with these findings; default: all are kept, and reported")
    length_models: list[str] = flag(
        (),
        "quality",
        "models under whose templates lengths are measured; default: the paper's three, and Pocket's for its sets",
    )

    batch_size: int | None = flag(
        None, "machine", "texts rewritten at a time, between which a run can resume; default: the text model's own"
    )
    workspace: str = flag(".", "machine", "folder that holds data")


def parse_preparation_arguments(argv: list[str]) -> tuple[PreparationArguments, list[str]]:
    """Parse a command line of `prepare_compositional_task_data.sh`; see `flags.parse`."""
    description = "Make the benchmark's data sets below data/: single-task sets and the 14 compositional ones."
    return parse(build_parser(PreparationArguments, "prepare_compositional_task_data.sh", description), PreparationArguments, argv)
