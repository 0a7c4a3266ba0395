"""How exact stored adapters are: bounds by precision. A number is rounded by at most 2^-11 of it in float16, 2^-8 in bfloat16."""

from __future__ import annotations

import torch

# Of an update's Frobenius norm. Two factors are rounded, and their rounding errors partly cancel.
RELATIVE_ERROR_OF_UPDATE = {"float16": 1e-3, "bfloat16": 8e-3}
# Of the norm of the change that an adapter makes to the logits of a tiny random model, which amplifies differences.
RELATIVE_ERROR_OF_LOGITS = {"float16": 5e-3, "bfloat16": 4e-2}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The Frobenius norm of the difference, relative to that of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()
