"""Command lines from dataclasses: each field is a flag, and its declaration holds everything about it."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import shlex
import typing
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from compositional.core.errors import UserError, nearest

T = TypeVar("T")
_PACKAGE = Path(__file__).parents[1]
SEED_END = 2**32


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a flag accepts, by lower and upper bounds, each inclusive or exclusive. They must be finite."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(
            f"{name} {'2^32' if bound == SEED_END else f'{bound:g}'}" for name, bound in bounds.items() if bound is not None
        )


COUNT = Range(at_least=1)
POSITIVE = Range(above=0)
SHARE = Range(above=0, at_most=1)
SEED = Range(at_least=0, below=SEED_END)
NOT_NEGATIVE = Range(at_least=0)


def flag(
    default: Any,
    group: str,
    help: str,
    certainty: str = "ours",
    *,
    choices: tuple[str, ...] | None = None,
    repeatable: bool = False,
    range: Range | None = None,
    is_budget: bool = False,
    is_name: bool = False,
    path: str | None = None,
    trainer_name: str | None = None,
) -> Any:
    """A dataclass field that is a command-line flag.

    Args:
        default: None if there is none, or if it depends on other flags; the help then says how.
        group: the section of the help; also selects which settings are recorded with an artefact and compared on resuming.
        certainty: how certain it is that the default is the paper's: read, arith, sibling, inferred or ours (docs/fidelity.md).
        repeatable: the flag may occur several times; its values are joined.
        range: the numbers that the flag accepts.
        is_budget: whether the flag sets how much is learned or generated. Experiments in one row of a table should agree in it.
        is_name: whether its values name things in the workspace, so that paths are refused.
        path: "folder" or "file" where its values may be paths, from the current folder; other values are names or hub ids.
        trainer_name: the name of the same setting in transformers' TrainingArguments.
    """
    metadata = {
        "group": group,
        "help": help,
        "certainty": certainty,
        "choices": choices,
        "repeatable": repeatable,
        "range": range,
        "is_budget": is_budget,
        "is_name": is_name,
        "path": path,
        "trainer_name": trainer_name,
    }
    if isinstance(default, list | tuple):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """A flag's declared default, before defaults that depend on other flags are filled in."""
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def wrong_values(arguments: Any) -> list[str]:
    """A message for each value outside its flag's range, and for each path given instead of a name."""
    mistakes = []
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        values = value if isinstance(value, list) else [value]
        shown = f"--{field.name} {' '.join(map(str, values))}"
        numbers = [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]
        limits = field.metadata["range"]
        if not all(map(math.isfinite, numbers)):
            mistakes.append(f"{shown}: must be finite")
        elif limits and not all(number in limits for number in numbers):
            mistakes.append(f"{shown}: must be {limits}")
        if field.metadata["is_name"]:
            mistakes += [f"--{field.name} {name}: {fault}" for name in values if name and (fault := fault_of_name(name))]
    return mistakes


LONGEST_NAME = 200  # bytes; files that are named after it have a few more, and file systems take 255


def fault_of_name(name: str) -> str | None:
    """Why a text can't name something in the workspace, as the end of a message; None if it can."""
    if is_path(name):
        return "a name is needed, not a path"
    if name != name.strip():
        return f"a name does not begin or end with a blank, this one is {name!r}"
    if not name.isprintable():
        return f"a name has no characters that can't be printed, this one is {name!r}"
    size = len(name.encode())
    return f"a name has at most {LONGEST_NAME} bytes, this one has {size}" if size > LONGEST_NAME else None


def is_path(name: str) -> bool:
    """Whether a text is a path rather than a plain name, and could therefore lead out of the intended folder."""
    return name.startswith(".") or "/" in name or "\\" in name


def expanded(words: list[str], check: Callable[[str, list[str]], object] = lambda file, words: None) -> list[str]:
    """The words of a command line, with those of the file for each @FILE, which is also looked up in the package.

    A line of a file may end in a comment, or in a backslash as in a shell. Raises UserError for a file that can't be read.

    Args:
        check: is called with each @FILE and the words that stand in the file itself, not in a file that it names.
    """
    return [each for word in words for each in (_words_of_file(word, (), check) if word.startswith("@") else [word])]


def files_of_flags(words: list[str]) -> list[Path]:
    """The files that the @FILEs of a command line stand for, with those that they name; raises UserError as `expanded` does."""
    files: list[Path] = []
    expanded(words, lambda file, own: files.append(_file_of(file)))
    return files


def _file_of(word: str) -> Path:
    path = Path(word[1:])
    return path if path.exists() else _PACKAGE / word[1:]


def _words_of_file(word: str, including: tuple[Path, ...], check: Callable[[str, list[str]], object]) -> list[str]:
    """The words in the file of an @FILE. `including` has the files that the word stands in, the outermost first."""
    try:
        path = _file_of(word)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{word}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{word}: {error}; save the file as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{word}: not a text file in UTF-8")
    if path.resolve() in including:
        raise UserError(f"{word}: the file names itself, in {including[-1]}")
    own = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            own += shlex.split(re.sub(r"(^|\s)\\\s*$", "", line), comments=True)
        except ValueError as error:
            remedy = "put text with an apostrophe or a backslash in quotation marks"
            raise UserError(f"{word}, line {number}: {error}: {remedy}") from error
    check(word, own)
    nested = (*including, path.resolve())
    return [each for one in own for each in (_words_of_file(one, nested, check) if one.startswith("@") else [one])]


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises UserError. Its help ends with a listing, which is built only when the help is shown."""

    listing: Callable[[], str] | None = None

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(message)

    def format_help(self) -> str:
        listing = self.listing() if self.listing else ""
        return super().format_help() + (f"\n{listing}\n" if listing else "")


def build_parser(kind: type, prog: str, description: str, listing: Callable[[], str] | None = None) -> argparse.ArgumentParser:
    """The parser of a command, from the fields of the dataclass `kind`. `listing` returns the text at the end of the help."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="@FILE stands for the flags in a file, for example @configs/pocket.txt.",
        allow_abbrev=False,
    )
    parser.listing = listing
    # argparse reads -0.5 as a number, but -5e-1 as a flag.
    parser._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
    types = typing.get_type_hints(kind)
    groups = dict.fromkeys(field.metadata["group"] for field in dataclasses.fields(kind))
    sections = {group: parser.add_argument_group(group) for group in groups}
    for field in dataclasses.fields(kind):
        sections[field.metadata["group"]].add_argument(f"--{field.name}", **_options(field, types[field.name]))
    return parser


def parse(parser: argparse.ArgumentParser, kind: type[T], argv: list[str]) -> tuple[T, list[str]]:
    """Parse a command line. The second value lists unknown flags with the nearest known ones, to be reported with other mistakes.

    Raises UserError when the value of a known flag has the wrong type, or is not UTF-8, since nothing more can then be checked.
    """
    mistakes = _repeated(kind, argv)
    words = expanded(argv, lambda file, own: mistakes.extend(f"{file}: {mistake}" for mistake in _repeated(kind, own)))
    mistakes = list(dict.fromkeys(mistakes))
    if undecodable := [word for word in words if not word.isascii() and _is_undecodable(word)]:
        raise UserError(*(f"{os.fsencode(word)!r} is not UTF-8: records could not name it" for word in undecodable))
    if without_value := [word for word in words if word.startswith("--") and word.endswith("=--")]:
        raise UserError(*(f"{word}: -- is no value" for word in without_value))  # argparse would make an empty list of it
    namespace, unknown = parser.parse_known_args(words)
    known = [f"--{field.name}" for field in dataclasses.fields(kind)]
    flags = [word.split("=", 1)[0] for word in unknown if word.startswith("-")]
    mistakes += [f"unknown flag {name}: {nearest(name, known)}" for name in flags if name not in known]
    if not flags and unknown:
        mistakes.append(f"unexpected words, which belong to no flag: {' '.join(unknown)}")
    return kind(**vars(namespace)), mistakes


def _repeated(kind: type, words: list[str]) -> list[str]:
    """A message for each list that stands twice on the command line, or in one file: the later would replace the earlier one.

    A list on the command line may replace that of a file of flags, and so may a list in a file that names another.
    """
    given = Counter(word.partition("=")[0] for word in words)
    lists = [
        field for field in dataclasses.fields(kind) if isinstance(default_of(field), list) and not field.metadata["repeatable"]
    ]
    return [f"--{one.name} stands there twice: name all its values after one" for one in lists if given[f"--{one.name}"] > 1]


def _is_undecodable(word: str) -> bool:
    """Whether a word of the command line was not UTF-8. Python has surrogates for its bytes."""
    return any(0xDC80 <= ord(character) <= 0xDCFF for character in word)


def _options(field: dataclasses.Field, declared: Any) -> dict[str, Any]:
    """argparse's options for a field."""
    kind = _without_none(declared)
    options: dict[str, Any] = {"help": field.metadata["help"], "default": argparse.SUPPRESS}
    if kind is bool:
        return options | {"action": "store_true"}
    if typing.get_origin(kind) is list:
        options |= {"nargs": "+", "type": typing.get_args(kind)[0], "metavar": "X", "choices": field.metadata["choices"]}
    else:
        options |= {"type": kind, "choices": field.metadata["choices"]}
        options |= {} if field.metadata["choices"] else {"metavar": kind.__name__.upper()}
    default = default_of(field)
    if default is not None and default != []:
        options["help"] += f" (default: {' '.join(map(str, default)) if isinstance(default, list) else default})"
    if field.metadata["repeatable"]:
        options["action"] = "extend"
    return options


def is_of_type(value: Any, declared: Any) -> bool:
    """Whether a value, such as one from a record, is of a flag's declared type."""
    if value is None:
        return type(None) in typing.get_args(declared)
    kind = _without_none(declared)
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(is_of_type(one, typing.get_args(kind)[0]) for one in value)
    return isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _without_none(kind: Any) -> Any:
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    return kind if typing.get_origin(kind) is list or not members else members[0]
