"""Training one correction of a frozen model to answer as several adapters do, each on examples of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.updates import AdapterUpdates, Correction
from compositional.models.chat import IGNORED
from compositional.training.corrected import CorrectedModel


@dataclass
class _Turn:
    """Whose turn it is, shared by all modules."""

    of_teachers: bool = False


class TaughtCorrection(nn.Module):
    """A correction that learns, and its teachers: the adapters themselves, one for each example."""

    def __init__(self, correction: Correction, adapters: list[LoraAdapter]) -> None:
        super().__init__()
        self.student = correction
        self.teachers = AdapterUpdates(adapters, [1.0] * len(adapters))
        self.turn = _Turn()

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the modules that an adapter updates; raises ValueError where the correction has others."""
        if set(self.student.corrected_paths) != set(self.teachers.corrected_paths):
            raise ValueError("the correction and its teachers update different modules")
        return self.teachers.corrected_paths

    def correction_of(self, module_path: str) -> nn.Module:
        """Maps x (..., d_in) to the student's or the teachers' term (..., d_out)."""
        return _OneOfTwo(self.student.correction_of(module_path), self.teachers.correction_of(module_path), self.turn)


class _OneOfTwo(nn.Module):
    def __init__(self, student: nn.Module, teachers: nn.Module, turn: _Turn) -> None:
        super().__init__()
        self.student, self.teachers, self._turn = student, teachers, turn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_out) for x (..., d_in)."""
        return self.teachers(x) if self._turn.of_teachers else self.student(x)


@dataclass(frozen=True)
class TaughtOutput:
    """Logits of the model with the correction, and with each example's adapter (batch × kept positions × vocabulary, both)."""

    logits: torch.Tensor
    teachers_logits: torch.Tensor


class ImitatingModel(CorrectedModel):
    """A frozen model with a `TaughtCorrection`, which answers twice."""

    def forward(self, merge_index: torch.Tensor | None = None, **inputs: Any) -> TaughtOutput:
        """`merge_index` (batch) has the number of each example's adapter."""
        taught = self.correction
        taught.teachers.choose(merge_index)
        taught.turn.of_teachers = True
        try:
            with torch.no_grad():
                teachers_logits = self._base[0](**inputs).logits
        finally:
            taught.turn.of_teachers = False
        return TaughtOutput(self._base[0](**inputs).logits, teachers_logits)


def imitation_loss(
    outputs: TaughtOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """T² KL(p_teacher ‖ p) at temperature T, summed over target tokens, divided by their number in the entire update.

    `labels` (batch × length) are IGNORED at positions without loss. Sources: Hinton et al. 2015; DAM, arXiv 2410.08371.
    """
    logits = outputs.logits[:, :-1]
    targets = labels[:, labels.shape[1] - logits.shape[1] :] != IGNORED
    student, teachers = (
        functional.log_softmax(one[targets].float() / temperature, dim=-1) for one in (logits, outputs.teachers_logits[:, :-1])
    )
    total = temperature**2 * functional.kl_div(student, teachers, reduction="sum", log_target=True)
    return total / (num_items_in_batch if num_items_in_batch is not None else targets.sum())
