"""Base models and tokenizers: Pocket's own, a local folder, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError, first_line
from compositional.core.files import hash_of_files, hash_of_json, read_tensor_shapes
from compositional.core.hub import hub_errors
from compositional.core.machine import device_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POCKET = "pocket"
# What configurations call the longest sequence.
_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "seq_len")
POCKET_FOLDER = Path(__file__).parents[1] / "pocket" / "base_model"


@dataclass(frozen=True)
class BaseModel:
    """A base model by the name that adapters record, and where it is loaded from."""

    name: str

    @property
    def location(self) -> str:
        return str(POCKET_FOLDER) if self.name == POCKET else self.name

    @property
    def is_local(self) -> bool:
        return Path(self.location).is_dir()

    def check_exists(self) -> None:
        """Raise UserError for a name that looks like a folder and is none. A hub's name is asked for when it is loaded."""
        looks_local = self.name.startswith((".", "/", "~")) or self.name.count("/") > 1
        if looks_local and not self.is_local:
            raise UserError(f"--model_name_or_path {self.name}: there is no such folder")
        if self.is_local and not (Path(self.location) / "config.json").is_file():
            raise UserError(f"--model_name_or_path {self.name}: the folder has no config.json, so it holds no model")
        if self.is_local:
            weights = sorted(Path(self.location).glob("*.safetensors"))
            if not weights:
                raise UserError(f"--model_name_or_path {self.name}: the folder has no weights (*.safetensors)")
            for path in weights:
                read_tensor_shapes(path)

    def config(self) -> Any:
        """The model's configuration; raises UserError when it can't be had."""
        from transformers import AutoConfig

        with _load_errors(self.name):
            return AutoConfig.from_pretrained(self.location)

    def identity(self) -> str:
        """What the model is: the hub's commit, or a hash of a local folder's configuration, weights and tokenizer."""
        return _identity_of_folder(self.location) if self.is_local else str(self.config()._commit_hash)

    @property
    def revision(self) -> str | None:
        """The hub's commit; None for a local folder."""
        return None if self.is_local else self.config()._commit_hash

    def signature(self) -> str:
        """What the model is, without reading its weights: the hub's commit, or a hash of a folder's settings and tensor shapes."""
        if not self.is_local:
            return str(self.revision)
        folder = Path(self.location)
        shapes = {path.name: read_tensor_shapes(path) for path in sorted(folder.glob("*.safetensors"))}
        return hash_of_json([hash_of_files(sorted(folder.glob("*.json"))), shapes])

    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        from compositional.models.chat import check_tokenizer

        with _load_errors(self.name):
            tokenizer = AutoTokenizer.from_pretrained(self.location)
        check_tokenizer(tokenizer, self.name)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer by the model's own generation settings."""
        from transformers import GenerationConfig

        with _load_errors(self.name):
            config = self.config()
            try:
                settings = GenerationConfig.from_pretrained(self.location)
            except OSError:  # there is no generation_config.json
                settings = GenerationConfig.from_model_config(config)
        ends = settings.eos_token_id
        return frozenset(ends if isinstance(ends, list) else {ends} - {None})

    @property
    def longest_sequence(self) -> int | None:
        """The tokens that the model takes at most, where it says so."""
        config = self.config().get_text_config()
        return next((length for name in _LENGTH_NAMES if (length := getattr(config, name, None))), None)

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model on this process's GPU if there is one, its weights frozen."""
        from transformers import AutoModelForCausalLM

        with _load_errors(self.name):
            # On a CPU the plain implementation is faster than SDPA at every size tried.
            attention = "eager" if device_name() == "cpu" else "sdpa"
            model = AutoModelForCausalLM.from_pretrained(self.location, dtype=dtype, attn_implementation=attention)
        model.requires_grad_(False)
        return model.to(device_name())

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of each linear module by path, from the configuration alone."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config())
        return {
            path: (module.out_features, module.in_features)
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }


@cache
def _identity_of_folder(location: str) -> str:
    kinds = ("*.json", "*.safetensors", "*.jinja", "*.model")
    return hash_of_files(sorted(path for kind in kinds for path in Path(location).glob(kind)))


class _load_errors:
    """Turns a hub's or folder's refusal into a UserError."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, UserError) and isinstance(error, hub_errors()):
            reason = first_line(error)
            raise UserError(f"model {self.name} could not be loaded: {reason}") from error
