"""Judging: is an output what was asked for, yes or no?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from src.data import Dataset


@dataclass(frozen=True)
class Request:
    """One output to be judged: what was asked by the tasks of `dataset`, of which input, and what came out."""

    dataset: Dataset
    split: str
    input: str
    output: str


@dataclass(frozen=True)
class Reply:
    """What a judge said, word for word, or why that is no verdict; both when it said why."""

    text: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Verdict:
    """One line of a verdicts file. `verdict` is "yes", "no", or None with the reason in `failure`."""

    id: str
    verdict: str | None
    reply: str | None
    failure: str | None


class Judge(Protocol):
    """What judges requests. `identity` says which judge it is: model, revision, and what else decides its verdicts."""

    @property
    def identity(self) -> dict[str, Any]: ...

    def start(self) -> None:
        """Get ready; called before the first request, and not at all when there is none."""
        ...

    def replies(self, requests: list[Request]) -> list[Reply]:
        """One reply per request, in their order. Raises UserError when the judge can't be asked at all."""
        ...


def verdict_of(id: str, reply: Reply) -> Verdict:
    """A reply's verdict: it must be "yes" or "no", in whatever case, and nothing else."""
    if reply.failure:
        return Verdict(id, None, reply.text, reply.failure)
    word = (reply.text or "").strip().lower()
    if word in ("yes", "no"):
        return Verdict(id, word, reply.text, None)
    return Verdict(id, None, reply.text, "the reply is neither yes nor no")
