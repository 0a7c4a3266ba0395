"""Reading one split of a data set on the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from src.errors import UserError, first_line

if TYPE_CHECKING:
    from src.data import Source


def load_hub_split(source: Source, split: str) -> Any:
    """The rows of a split by `datasets.load_dataset`; raises UserError when the hub can't be reached or lacks it."""
    from datasets import load_dataset

    try:
        return load_dataset(source.hub_id, revision=source.revision, split=split)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"data set {source.hub_id} ({split}) could not be loaded from the hub ({reason}); "
            "without a network, name the publishers' files with --raw_data_dir"
        ) from error
