"""Tiny text models: a MarianMT with SentencePiece files of its own, a GPT-NeoX, and a LoRA adapter in both formats."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

POSITIONS = 56  # tokens that the translator takes
TONE_POSITIONS = 192  # tokens that the tone rewriter takes: prompt and output


def build_translator(folder: Path, seed: int = 2) -> Path:
    """A MarianMT model with the files of the published ones: source.spm, target.spm and vocab.json.

    Its weights are random, spread so that each text gets an output of its own, and the end comes sooner or later.
    """
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(parents=True)
    vocabulary = _write_pieces(folder)
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sacremoses")
        tokenizer = MarianTokenizer(*files, source_lang="en", target_lang="es", model_max_length=512)
    tokenizer.save_pretrained(folder)
    sizes = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = MarianConfig(
        **sizes,
        vocab_size=len(vocabulary),
        decoder_vocab_size=len(vocabulary),
        d_model=96,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=POSITIONS,
        pad_token_id=vocabulary["<pad>"],
        decoder_start_token_id=vocabulary["<pad>"],
        eos_token_id=vocabulary["</s>"],
        forced_eos_token_id=vocabulary["</s>"],
        init_std=0.3,
        scale_embedding=True,
    )
    torch.manual_seed(seed)
    model = MarianMTModel(config)
    model.final_logits_bias[0, vocabulary["</s>"]] = 4.0
    model.generation_config.update(num_beams=3, bad_words_ids=[[vocabulary["<pad>"]]])
    model.save_pretrained(folder)
    return folder


def _write_pieces(folder: Path) -> dict[str, int]:
    """Write source.spm, target.spm and vocab.json for Pocket's English and Spanish; returns the vocabulary."""
    import sentencepiece

    from compositional.pocket.examples import draw_examples
    from compositional.pocket.sentences import render_all

    examples = list(draw_examples("sentences", "validation"))
    texts = {"source": [example.input for example in examples], "target": [render_all(e.meaning, "es") for e in examples]}
    pieces = ["</s>", "<unk>"]
    for side, sentences in texts.items():
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            vocab_size=200,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
        )
        (folder / f"{side}.spm").write_bytes(written.getvalue())
        learned = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
        ids = range(learned.get_piece_size())
        pieces += [learned.id_to_piece(id) for id in ids if not (learned.is_control(id) or learned.is_unknown(id))]
    vocabulary = {piece: id for id, piece in enumerate(dict.fromkeys([*pieces, "<pad>"]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return vocabulary


def build_tone_model(folder: Path, tokenizer: Any) -> Path:
    """A randomly initialised GPT-NeoX; like the published one, its tokenizer has no token for padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig

    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=TONE_POSITIONS,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    unpadded = AutoTokenizer.from_pretrained(folder)
    unpadded.pad_token = None
    unpadded.save_pretrained(folder)
    return folder


def build_tone_adapter(folder: Path, tone_model: Path) -> Path:
    """A random LoRA adapter of the attention of a GPT-NeoX, as safetensors."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tone_model)
    get_peft_model(base, LoraConfig(r=4, target_modules=["query_key_value"], init_lora_weights=False)).save_pretrained(folder)
    return folder


def pickled(adapter: Path, folder: Path) -> Path:
    """The same adapter as its publishers have it: adapter_model.bin, a pickle."""
    import torch
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    shutil.copyfile(adapter / "adapter_config.json", folder / "adapter_config.json")
    torch.save(load_file(adapter / "adapter_model.safetensors"), folder / "adapter_model.bin")
    return folder
