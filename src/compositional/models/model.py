"""Language models by name: 'pocket', a local folder, a hub id, or hub_id@revision. Only safetensors are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError, first_line
from compositional.core.files import hash_of_files, hash_of_json, read_json, read_tensor_shapes
from compositional.core.hub import hub_errors
from compositional.core.machine import device_name, resolve_dtype
from compositional.core.recorded import read_whole_record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parents[1] / "pocket" / "base_model"
# The files that determine the outputs of a model or adapter in a folder.
_DECISIVE_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.spm", "adapter_model.bin")
# Left open, transformers would ask on a terminal whether a model's own code shall be run.
_NO_REMOTE_CODE = {"trust_remote_code": False}
_GENERATION_FILE = "generation_config.json"
_WHOLE_FILE, _INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# The names of the maximum sequence length in configurations.
_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "seq_len")


@dataclass(frozen=True)
class Model:
    """A model by the name that adapters and records use for it, and its location.

    Configuration, tokenizer, identity and shapes are read on first use and cached, so share one object for one model.
    `flag` is the command-line flag that named the model; error messages cite it.
    """

    name: str
    flag: str = field(default="--model_name_or_path", compare=False)

    @property
    def is_local(self) -> bool:
        """Whether the model is a local folder; Pocket's is."""
        return Path(self.location).is_dir()

    @property
    def location(self) -> str:
        """The folder, or the hub id without a revision."""
        if self.name == POCKET:
            return str(POCKET_FOLDER)
        return self.name if Path(self.name).is_dir() else self.name.partition("@")[0]

    @property
    def requested_revision(self) -> str:
        """The hub's branch, tag, pull request or commit."""
        return "main" if self.is_local else self.name.partition("@")[2] or "main"

    def check_exists(self) -> None:
        """Raise UserError for a missing folder, and for one with no complete model, damaged settings, or an adapter beside it.

        A hub id is checked only when one of its files is read.
        """
        looks_local = self.name.startswith((".", "/", "~")) or self.location.count("/") > 1
        if looks_local and not self.is_local:
            raise UserError(f"{self.flag} {self.name}: there is no such folder")
        if not self.is_local:
            return
        folder = Path(self.location)
        if not (folder / "config.json").is_file():
            raise UserError(f"{self.flag} {self.name}: the folder has no config.json, so it holds no model")
        if (folder / "adapter_config.json").is_file():
            fault = "the folder also holds an adapter (adapter_config.json), which would answer with the base model"
            raise UserError(f"{self.flag} {self.name}: {fault}: move it to a folder of its own")
        self._check_is_object("config.json")
        self._check_is_object(_GENERATION_FILE)
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(f"{self.flag} {self.name}: the folder has no weights (*.safetensors)")
        stored = {path.name: read_tensor_shapes(path).keys() for path in weights}
        if _WHOLE_FILE not in stored:
            self._check_shards(folder / _INDEX_FILE, stored)

    def _check_is_object(self, name: str) -> None:
        """Raise UserError for a file of a local folder that is there and is no JSON object; transformers may take it as missing."""
        path = Path(self.location) / name
        if self.is_local and path.is_file() and not isinstance(read_json(path), dict):
            raise UserError(f"{path} is damaged: a JSON object is expected")

    def _check_shards(self, index: Path, stored: dict[str, Iterable[str]]) -> None:
        """Raise UserError for weights in several files whose index is missing, or names others than those in `stored`."""
        if not index.is_file():
            raise UserError(f"{self.flag} {self.name}: the folder has neither {_WHOLE_FILE} nor {index.name}")
        shard_of = read_whole_record(index, weight_map=dict)["weight_map"]
        if missing := sorted({str(shard) for shard in shard_of.values()} - stored.keys()):
            raise UserError(f"{self.flag} {self.name}: the folder lacks {', '.join(missing)}, which {index.name} names")
        if absent := [name for name, shard in shard_of.items() if name not in stored[shard]]:
            fault = f"{shard_of[absent[0]]} lacks {absent[0]}, which {index.name} expects in it"
            raise UserError(f"{self.flag} {self.name}: {fault}")

    def check_has(self, *files: str) -> None:
        """Raise UserError when a local folder lacks one of the files. Files on the hub are checked when they are loaded."""
        missing = [name for name in files if self.is_local and not (Path(self.location) / name).is_file()]
        if missing:
            raise UserError(f"{self.flag} {self.name}: the folder has no {' and no '.join(missing)}")

    @cached_property
    def config(self) -> Any:
        """The model's transformers configuration; raises UserError when it can't be loaded, or contradicts itself."""
        from transformers import AutoConfig

        with self._load_errors():
            config = AutoConfig.from_pretrained(self.location, revision=self.requested_revision, **_NO_REMOTE_CODE)
        sizes = config.get_text_config()
        padding, rows = getattr(sizes, "pad_token_id", None), getattr(sizes, "vocab_size", None)
        if padding is not None and rows is not None and not -rows <= padding < rows:
            raise UserError(f"{self.flag} {self.name}: pad_token_id {padding} of its config.json is outside its {rows} embeddings")
        return config

    def check_full_precision(self) -> None:
        """Raise UserError for weights that are stored quantized: adapters are trained on, and folded into, plain weights."""
        if method := getattr(self.config, "quantization_config", None):
            kind = method.get("quant_method", "") if isinstance(method, dict) else getattr(method, "quant_method", "")
            raise UserError(
                f"{self.flag} {self.name}: its weights are quantized ({getattr(kind, 'value', kind) or 'quantization_config'}): "
                "name the model that it was made of, with --ignore_recorded_base_model where adapters record this one"
            )

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; raises UserError when it can't be loaded, or has no chat template or end-of-text token."""
        from transformers import AutoTokenizer

        from compositional.models.chat import check_tokenizer

        with self._load_errors():
            tokenizer = AutoTokenizer.from_pretrained(self.location, revision=self.requested_revision, **_NO_REMOTE_CODE)
            tokenizer("Some settings are used only now.")
        check_tokenizer(tokenizer, self.name)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._check_embeddings(tokenizer)
        return tokenizer

    def _check_embeddings(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError when a prompt may have tokens without a row in the embeddings.

        Added tokens that no prompt has, such as Gemma 3's for images, may lie beyond them.
        """
        rows = getattr(self.config.get_text_config(), "vocab_size", None)
        beyond = [text for text, id in tokenizer.get_vocab().items() if rows is not None and id >= rows]
        unused = {text for text in tokenizer.get_added_vocab() if text not in str(tokenizer.chat_template)}
        unused -= {tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token}
        if used := sorted(set(beyond) - unused):
            named = ", ".join(used[:3]) + (", …" if len(used) > 3 else "")
            raise UserError(
                f"{self.flag} {self.name}: the model has {rows} embeddings, and its tokenizer has tokens beyond them ({named}): "
                "take them out of the tokenizer's files, or resize the embeddings"
            )

    @cached_property
    def identity(self) -> str:
        """The exact version of the model: the hub's commit, or a hash of a local folder's configuration, weights and tokenizer."""
        if not self.is_local:
            return str(self.commit)
        paths = sorted(path for kind in _DECISIVE_FILES for path in Path(self.location).glob(kind))
        return _hash_of_unchanged(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths))

    @property
    def identity_without_network(self) -> str:
        """The hub id and the requested revision, or a hash of a local folder's files."""
        return self.identity if self.is_local else f"{self.location}@{self.requested_revision}"

    @cached_property
    def signature(self) -> str:
        """The model's version, without reading weights: the hub's commit, or a hash of a folder's settings and shapes."""
        if not self.is_local:
            return str(self.commit)
        folder = Path(self.location)
        shapes = {path.name: read_tensor_shapes(path) for path in sorted(folder.glob("*.safetensors"))}
        return hash_of_json([hash_of_files(sorted(folder.glob("*.json"))), shapes])

    @property
    def commit(self) -> str | None:
        """The hub's commit; None for a local folder."""
        return None if self.is_local else self.config._commit_hash

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """The end-of-sequence tokens of the model's own generation settings; raises UserError when these are damaged."""
        from transformers import GenerationConfig

        self._check_is_object(_GENERATION_FILE)
        with self._load_errors():
            try:
                settings = GenerationConfig.from_pretrained(self.location, revision=self.requested_revision)
            except OSError:  # there is no such file
                settings = GenerationConfig.from_model_config(self.config)
        ends = settings.eos_token_id
        tokens = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(type(token) is int for token in tokens):
            fault = f"eos_token_id is {ends!r}, a token's id or a list of them is expected"
            raise UserError(f"{self.flag} {self.name}: its {_GENERATION_FILE} is damaged: {fault}")
        return frozenset(tokens)

    @property
    def longest_sequence(self) -> int | None:
        """The maximum number of tokens that the model accepts; None if its configuration does not say."""
        config = self.config.get_text_config()
        return next((length for name in _LENGTH_NAMES if (length := getattr(config, name, None))), None)

    @cached_property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of each linear module by path, from the configuration alone."""
        return {path: (module.out_features, module.in_features) for path, module in self._linear_modules.items()}

    @cached_property
    def parameter_count(self) -> int:
        """The number of its parameters, found without its weights; tied ones count once."""
        return sum(parameter.numel() for parameter in self._skeleton.parameters())

    @cached_property
    def tied_modules(self) -> frozenset[str]:
        """Paths of the linear modules that share their weight with another module, as `lm_head` does with the input embeddings.

        An update that is added to such a weight would change the other module, too.
        """
        owners = Counter(id(weight) for module in self._skeleton.modules() for weight in module.parameters(recurse=False))
        return frozenset(path for path, module in self._linear_modules.items() if owners[id(module.weight)] > 1)

    def check_updates(self, modules: Iterable[str], what: str) -> None:
        """Raise UserError, which begins with `what`, if one of the modules (paths, or types such as `q_proj`) is a tied one."""
        tied = {name for path in self.tied_modules for name in (path, path.rpartition(".")[2])}
        if found := sorted(tied.intersection(modules)):
            named = ", ".join(found)
            raise UserError(f"{what}: {named} of {self.name} is tied to the embeddings, which an update would change, too")

    @property
    def _linear_modules(self) -> dict[str, torch.nn.Linear]:
        return linear_modules(self._skeleton)

    @cached_property
    def _skeleton(self) -> PreTrainedModel:
        """The model without values, from the configuration alone."""
        import torch
        from transformers import AutoModelForCausalLM

        with self._load_errors(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config, **_NO_REMOTE_CODE)

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """A causal language model with frozen weights, on this process's GPU if there is one."""
        from transformers import AutoModelForCausalLM

        # On a CPU, eager attention is faster than SDPA at every size tried.
        attention = "eager" if device_name() == "cpu" else "sdpa"
        model = self._whole_model(AutoModelForCausalLM, dtype=dtype, attn_implementation=attention)
        for name, weight in model.named_parameters():
            if not weight.isfinite().all():
                raise UserError(f"{self.flag} {self.name}: {name} has values that are no numbers")
        model.requires_grad_(False)
        return model.to(device_name())

    def load_as(self, kind: Any, dtype: str | None = None, **options: Any) -> Any:
        """Load with an Auto class of transformers: a tokenizer (no dtype), or a model in evaluation mode on this device."""
        if dtype is not None:
            return self._whole_model(kind, dtype=resolve_dtype(dtype), **options).eval().to(device_name())
        with self._load_errors():
            return kind.from_pretrained(self.location, revision=self.requested_revision, **options, **_NO_REMOTE_CODE)

    def check_weights(self) -> None:
        """Raise UserError when a local model's files lack some of its weights, or have them in other shapes. Reads no values."""
        from transformers import AutoModelForCausalLM

        if self.is_local:
            self._whole_model(AutoModelForCausalLM, device_map="meta")

    def _whole_model(self, kind: Any, **options: Any) -> PreTrainedModel:
        """A model of one of transformers' Auto classes. Raises UserError for weights that its files lack, or have in other shapes.

        transformers would initialise these at random. It knows which weights are tied to others, or computed, and need no file.
        """
        with self._load_errors(), _without_warnings():
            model, found = kind.from_pretrained(
                self.location,
                revision=self.requested_revision,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
                **_NO_REMOTE_CODE,
            )
        if missing := sorted(found["missing_keys"]):
            raise UserError(f"{self.flag} {self.name}: its files lack weights of the model: {_first_few(missing)}")
        if mismatched := sorted(found["mismatched_keys"]):
            named = [f"{name} is {_by(stored)}, not {_by(expected)}" for name, stored, expected in mismatched]
            raise UserError(f"{self.flag} {self.name}: its weights do not fit its config.json: {_first_few(named)}")
        return model

    @contextmanager
    def _load_errors(self) -> Iterator[None]:
        """Turn errors of the hub and of transformers into a UserError.

        Settings of another type or value than a model's code expects end in whatever error they lead to.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, hub_errors()) else f" ({type(error).__name__})"
            raise UserError(f"{self.flag} {self.name} could not be loaded: {first_line(error)}{kind}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep transformers from printing a table of missing weights beside the error that names them."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", … ({len(names)} in all)" if len(names) > 3 else "")


def _by(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def linear_modules(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The linear modules that process text, by path: the decoder's, and the output embeddings.

    Multimodal models have encoders of images or sound beside them, with modules of the same names.
    """
    import torch

    decoder, head = model.get_decoder(), model.get_output_embeddings()
    start = next((f"{path}." for path, module in model.named_modules() if module is decoder and path), "")
    linear = {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {path: module for path, module in linear.items() if path.startswith(start) or module is head}


@cache
def _hash_of_unchanged(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The hash of files, cached by (path, modification time, size), since some files have gigabytes."""
    return hash_of_files([path for path, _, _ in files])
