"""How surely a text is in a language, by the lingua library: the benchmark's languages are told from one another."""

from __future__ import annotations

from functools import cache
from typing import Any

from src.tasks import all_tasks


def confidences(texts: list[str], language: str) -> list[float]:
    """For each text, the probability that it is in a language (ISO 639-1 code) rather than in another one of the tasks."""
    from lingua import IsoCode639_1, Language

    expected = Language.from_iso_code_639_1(getattr(IsoCode639_1, language.upper()))
    return _detector().compute_language_confidence_in_parallel(texts, expected) if texts else []


@cache
def _detector() -> Any:
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = sorted({task.language.upper() for task in all_tasks()})
    return LanguageDetectorBuilder.from_iso_codes_639_1(*(getattr(IsoCode639_1, code) for code in codes)).build()
