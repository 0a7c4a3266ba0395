"""A server of llama.cpp, in this process or elsewhere: what it serves, and its greedy answers to token ids."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.errors import UserError, first_line
from compositional.core.servers import NoAnswerError, ask, open_answer
from compositional.formats.configuration import parameters_of
from compositional.formats.gguf import identity_of
from compositional.models.model import Model

_LONGEST_WAIT = 3600.0  # seconds for one answer
_EVENT = b"data: "
FLAG = "--llama_cpp_url"


def complete(address: str, prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    """The server's greedy answer to a prompt (token ids), with its `tokens` and `timings`.

    Raises NoAnswerError when the server refuses, and when prompt and answer do not fit in its context: nothing is cut silently.
    """
    answer = ask(f"{address}/completion", _request(prompt, tokens, **more), _LONGEST_WAIT)
    if answer.get("truncated"):
        raise NoAnswerError(f"{address}: its context ended before the answer to {len(prompt)} tokens: start it with a larger -c")
    return answer


def stream(address: str, prompt: list[int], tokens: int) -> Iterator[dict[str, Any]]:
    """The server's greedy answer in events, one per whole character or more, with their `content` and `tokens`.

    Closing the iterator ends the server's work. Raises NoAnswerError when the server refuses.
    """
    with open_answer(f"{address}/completion", _request(prompt, tokens, stream=True), _LONGEST_WAIT) as lines:
        while line := lines.readline():
            if line.startswith(_EVENT):
                yield json.loads(line.removeprefix(_EVENT))


# Greedy decoding: nothing of the sampling that a server was started with, or that its file asks for, applies.
_GREEDY = {
    "temperature": 0,
    "dynatemp_range": 0,
    "mirostat": 0,
    "repeat_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "dry_multiplier": 0,
    "xtc_probability": 0,
    "typical_p": 1,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "logit_bias": [],
    "ignore_eos": False,
    "grammar": "",
}


def _request(prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    return {**_GREEDY, "prompt": prompt, "n_predict": tokens, "cache_prompt": False, "return_tokens": True, **more}


@dataclass(frozen=True)
class ServedModel:
    """What a running server says of itself. `adapters` are the numbers of its adapters by their identity.

    `alias` is the name that it was started with. `slots` is the number of requests at a time, and `context` the most tokens of one.
    """

    address: str
    alias: str
    file: str
    precision: str
    build: str
    parameters: int
    vocabulary: int
    width: int
    slots: int
    context: int
    adapters: dict[str, int]
    files_of_adapters: tuple[str, ...]

    def scales(self, adapter: StoredAdapter | None) -> list[dict[str, Any]]:
        """llama.cpp's `lora` of a request that an adapter answers, or the base model alone."""
        chosen = self.adapters[identity_of(adapter)] if adapter else None
        numbers = range(len(self.files_of_adapters))
        return [{"id": number, "scale": float(number == chosen)} for number in numbers]

    @property
    def record(self) -> dict[str, Any]:
        """What is recorded beside predictions: the server's file of the base model, its precision, and llama.cpp's version."""
        return {"dtype": self.precision, "server": {"model": self.file, "parameters": self.parameters, "build": self.build}}


def served_model(address: str) -> ServedModel:
    """Ask a server what it serves. Raises UserError when none answers, or it is none of llama.cpp."""
    address = address.rstrip("/")
    try:
        properties, adapters = ask(f"{address}/props"), ask(f"{address}/lora-adapters")
        meta = ask(f"{address}/v1/models")["data"][0]["meta"]
        return ServedModel(
            address,
            alias=properties["model_alias"],
            file=properties["model_path"].replace("\\", "/").rpartition("/")[2],
            precision=properties.get("model_ftype", "unknown"),
            build=properties["build_info"],
            parameters=meta["n_params"],
            vocabulary=meta["n_vocab"],
            width=meta["n_embd"],
            slots=properties["total_slots"],
            context=properties["default_generation_settings"]["n_ctx"],
            adapters={one["task_name"]: one["id"] for one in adapters if one.get("task_name")},
            files_of_adapters=tuple(one["path"].replace("\\", "/").rpartition("/")[2] for one in adapters),
        )
    except NoAnswerError as error:
        raise UserError(f"{FLAG} {error}; `llama-server` starts one, see docs/export.md") from error
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        fault = f"what answers there is no server of llama.cpp, or an old one: it does not say {first_line(error)}"
        raise UserError(f"{FLAG} {address}: {fault}") from error


def check_served(served: ServedModel, base: Model, adapters: Sequence[StoredAdapter], longest: int) -> None:
    """Raise UserError unless a server has a model of the base's size, the adapters, and room for `longest` tokens a request.

    An adapter is known by its content, which export.py writes into its file. A calibration's biases are part of the served model:
    they are known by the number of parameters, and by the alias that export.py names. A server does not tell its weights, so
    another model of the same size is not noticed.
    """
    where, mistakes = f"{FLAG} {served.address}", []
    config = base.config
    if (served.vocabulary, served.width) != (config.vocab_size, config.hidden_size):
        theirs, ours = f"{served.vocabulary:,} tokens of width {served.width:,}", f"{config.vocab_size:,} of {config.hidden_size:,}"
        raise UserError(f"{where}: its model {served.file} is not {base.name}: it has {theirs}, not {ours}")
    biased = [one for one in adapters if one.has_biases]
    expected = _parameters(base, biased)
    if served.parameters not in expected:
        what = f"{base.name} with the biases of {biased[0].name}" if biased else base.name
        fault = f"it has {served.parameters:,} parameters, not {min(expected):,}"
        mistakes.append(f"{where}: its model {served.file} is not {what}: {fault}")
    elif biased and served.alias != identity_of(biased[0]):
        fault = f"its model is called {served.alias}, so it may have other biases than those of {biased[0].name}"
        mistakes.append(f"{where}: {fault}: start it with the --alias in export.json")
    if missing := [one.name for one in adapters if identity_of(one) not in served.adapters]:
        has = ", ".join(served.files_of_adapters) or "none"
        remedy = "export with `export.py --to gguf`, and start it with --lora"
        mistakes.append(f"{where}: it has no adapter {' and no '.join(missing)} (its adapters: {has}): {remedy}")
    if served.context <= longest:
        remedy = "start it with a larger -c, or choose a smaller --max_prompt_length"
        mistakes.append(f"{where}: its requests have {served.context} tokens, more than {longest} are needed: {remedy}")
    if mistakes:
        raise UserError(*mistakes)


def _parameters(base: Model, biased: list[StoredAdapter]) -> set[int]:
    """How many parameters a file of the model can have: converters may write tied embeddings twice, and rotary factors."""
    from compositional.calibration.parameters import read_biases

    parameters = parameters_of(base.config)
    biases = {f"{path}.bias": bias for one in biased for path, bias in read_biases(one.folder, one.shapes).items()}
    own = sum(one.numel() for one in parameters.values())
    own += sum(bias.numel() for name, bias in biases.items() if name not in parameters)
    config = base.config
    twice = (0, config.vocab_size * config.hidden_size) if config.tie_word_embeddings else (0,)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {own + sum(more) for more in itertools.product(twice, (0, size // 2))}
