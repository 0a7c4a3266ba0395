"""Rebuild Pocket's base model: `python -m compositional.pocket.build_base_model`.

A small Llama and its byte-level BPE tokenizer, trained from nothing on Pocket's corpus in 17 minutes on two
cores. The result replaces `src/compositional/pocket/base_model`.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from compositional.pocket.corpus import Chat, draw_document

BASE_MODEL_FOLDER = Path(__file__).parent / "base_model"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY_SIZE = 2048
BLOCK_LENGTH = 160


def build_tokenizer(random: Random, documents: int = 20_000):
    """A byte-level BPE tokenizer (any Unicode text is in its reach) trained on the corpus, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_plain(draw_document(random)) for _ in range(documents)), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model(tokenizer, seed: int):
    """The untrained model: a stock Llama of under 3M parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"  # faster than SDPA on a CPU at this size
    return LlamaForCausalLM(config)


def blocks_of_tokens(tokenizer, random: Random, batch_size: int) -> Iterator:
    """Endless batches (batch_size × BLOCK_LENGTH) of documents packed one after the other."""
    import torch

    stream: list[int] = []
    needed = batch_size * BLOCK_LENGTH
    while True:
        while len(stream) < needed:
            texts = [_marked(draw_document(random)) for _ in range(256)]
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                stream += ids
        yield torch.tensor(stream[:needed]).view(batch_size, BLOCK_LENGTH)
        stream = stream[needed:]


def train(model, batches: Iterator, steps: int, learning_rate: float) -> None:
    """AdamW with a linear warm-up and a cosine decay, in bfloat16 where it is fast."""
    import torch
    from tqdm import tqdm

    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    warmup = 100

    def factor(step: int) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return min(1.0, (step + 1) / warmup) * max(0.02, decay)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    progress = tqdm(range(steps), desc="pre-training", mininterval=5)
    for step in progress:
        ids = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")


def save(model, tokenizer, folder: Path) -> None:
    """Write model (float16) and tokenizer beside `folder`, then put them in its place."""
    import torch

    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.to(torch.float16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _plain(document: str | Chat) -> str:
    return document if isinstance(document, str) else f"{document.user}\n{document.assistant}"


def _marked(document: str | Chat) -> str:
    if isinstance(document, str):
        return document + "<|end|>"
    return f"<|user|>{document.user}<|end|><|assistant|>{document.assistant}<|end|>"


def main() -> None:
    """Build tokenizer and corpus, train the model, and replace the committed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=BASE_MODEL_FOLDER, help="where the model is written")
    parser.add_argument("--steps", type=int, default=1800, help="optimizer steps")
    parser.add_argument("--batch_size", type=int, default=40, help="blocks of 160 tokens a step")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the corpus and of the initial weights")
    arguments = parser.parse_args()
    start = time.monotonic()
    tokenizer = build_tokenizer(Random(f"tokenizer/{arguments.seed}"))
    model = build_model(tokenizer, arguments.seed)
    batches = blocks_of_tokens(tokenizer, Random(f"corpus/{arguments.seed}"), arguments.batch_size)
    train(model, batches, arguments.steps, arguments.learning_rate)
    save(model, tokenizer, arguments.folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{arguments.folder}: {parameters:,} parameters, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
