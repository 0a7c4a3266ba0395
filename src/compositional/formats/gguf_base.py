"""A user's own GGUF file of a base model: whether it is that model, and its tensors with a calibration's biases beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError, first_line
from compositional.formats.gguf import close, new_writer, write_biases
from compositional.formats.gguf_forms import Form, gguf_form

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compositional.models.model import Model

# A quantization to two bits changes weights by about 0.3 of their norm; another model's weights differ by more than their norm.
_LARGEST_DIFFERENCE = 0.7
_ROTARY_FACTORS, _OUTPUT = "rope_freqs.weight", "output.weight"


@dataclass(frozen=True)
class GgufBase:
    """A GGUF file as the base model of an export. Raises UserError, on first use, for a file that is none or not whole."""

    path: Path
    flag: str = "--base_gguf"

    @cached_property
    def _reader(self) -> Any:
        from gguf import GGUFReader

        if not self.path.is_file():
            raise UserError(f"{self.flag} {self.path}: there is no such file")
        try:
            return GGUFReader(self.path)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise UserError(f"{self.flag} {self.path}: not a whole GGUF file ({first_line(error)})") from error

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self._reader.tensors}

    def _setting(self, name: str) -> Any:
        field = self._reader.get_field(name)
        return None if field is None else field.contents()

    def form(self, base: Model) -> Form:
        """The form in which the file has the model; raises UserError if it has other tensors, shapes or tokens than the model."""
        where = f"{self.flag} {self.path}"
        if (count := self._setting("split.count")) not in (None, 0, 1):
            raise UserError(f"{where}: it is one of {count} files: join them with `llama-gguf-split --merge`")
        try:
            form = gguf_form(base, str(self._setting("general.architecture")))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        found = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}
        expected = form.shapes(base.config)
        optional = {_ROTARY_FACTORS} | ({_OUTPUT} if base.config.tie_word_embeddings else set())
        for name in [*expected, *found]:
            if name in optional or found.get(name) == expected.get(name):
                continue
            here, there = (" × ".join(map(str, one[name])) if name in one else "missing" for one in (found, expected))
            raise UserError(f"{where}: it is not {base.name}: {name} is {here} in the file, {there} in the model")
        self._check_tokens(base, where)
        return form

    def _check_tokens(self, base: Model, where: str) -> None:
        """Raise UserError if a token of the model's tokenizer is another one in the file."""
        tokens = self._setting("tokenizer.ggml.tokens") or []
        for token, number in base.tokenizer.get_vocab().items():
            if number < base.config.vocab_size and (number >= len(tokens) or tokens[number] != token):
                there = repr(tokens[number]) if number < len(tokens) else "missing"
                raise UserError(f"{where}: it is not {base.name}: token {number} is {there} in the file, {token!r} in the model")

    def difference(self, base: Model, form: Form) -> float:
        """‖W' - W‖ / ‖W‖ (Frobenius) of the file's weights W' in the first and the last layer; quantization explains a part of 1.

        Raises UserError if the weights are another model's, and for precisions that can't be read.
        """
        import torch

        layers = {0, base.config.num_hidden_layers - 1}
        marks = tuple(f"model.layers.{layer}." for layer in layers)
        weights = base.load(torch.float32).to("cpu").state_dict()
        chosen = {name: value for name, value in weights.items() if name.startswith(marks) and value.ndim == 2}
        lost = norm = 0.0
        for name, value in form.tensors(chosen):
            lost += float(((self._dequantized(name) - value) ** 2).sum())
            norm += float((value**2).sum())
        difference = math.sqrt(lost / norm)
        if not difference < _LARGEST_DIFFERENCE:
            fault = f"it has the shapes of {base.name}, and other weights: they differ by {difference:.2f} of their norm"
            raise UserError(f"{self.flag} {self.path}: {fault}")
        return difference

    def _dequantized(self, name: str) -> np.ndarray:
        from gguf import dequantize

        tensor = self._tensors[name]
        try:
            return dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise UserError(f"{self.flag} {self.path}: {name} is in {kind}, which this version of gguf can't read") from error

    def write_with_biases(self, path: Path, form: Form, biases: dict[str, torch.Tensor]) -> list[Path]:
        """Write the file as the first of two, its tensors byte for byte, and the biases (d_out, by module path) as the second.

        A bias that the model has itself leaves the first file: the second has the sum.
        """
        extra = []
        for name, value in form.tensors({f"{module}.bias": value for module, value in biases.items()}):
            extra.append((name, value + self._dequantized(name) if name in self._tensors else value))
        replaced = {name for name, _ in extra}
        kept = [tensor for name, tensor in self._tensors.items() if name not in replaced]
        files = [path.with_name(f"{path.stem}-0000{n}-of-00002.gguf") for n in (1, 2)]
        writer = new_writer(files[0], form.architecture, (0, 2, len(kept) + len(extra)))
        self._copy_settings(writer)
        for tensor in kept:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        close(writer)
        write_biases(files[1], form, extra, len(kept) + len(extra))
        return files

    def _copy_settings(self, writer: Any) -> None:
        from gguf import GGUFValueType

        for field in self._fields():
            kind, *inner = field.types
            if field.name == "general.alignment":
                writer.add_custom_alignment(field.contents())
            else:
                writer.add_key_value(field.name, field.contents(), kind, inner[-1] if kind == GGUFValueType.ARRAY else None)

    def _fields(self) -> Iterable[Any]:
        ours = ("GGUF.", "split.", "general.architecture")  # which the writer sets
        return [field for name, field in self._reader.fields.items() if not name.startswith(ours)]
