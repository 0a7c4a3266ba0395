"""Command lines made from dataclasses: each field is a flag, declared once with its type, default and help."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import typing
from typing import Any, TypeVar

from compositional.core.errors import UserError, nearest

T = TypeVar("T")


def flag(
    default: Any,
    group: str,
    help: str,
    certainty: str = "ours",
    choices: tuple[str, ...] | None = None,
    repeatable: bool = False,
) -> Any:
    """A dataclass field that is a command-line flag. A `repeatable` one takes the values of all its occurrences."""
    metadata = {"group": group, "help": help, "certainty": certainty, "choices": choices, "repeatable": repeatable}
    if isinstance(default, list | tuple):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are UserErrors and whose unknown flags are answered with the nearest known ones."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(message)

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        return shlex.split(arg_line, comments=True)


def build_parser(kind: type, prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command, made from the fields of the dataclass `kind`."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="@FILE stands for the flags in a file, for example @configs/pocket.txt.",
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )
    # argparse takes -0.5 for a number, but -5e-1 for a flag.
    parser._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
    types = typing.get_type_hints(kind)
    groups = dict.fromkeys(field.metadata["group"] for field in dataclasses.fields(kind))
    sections = {group: parser.add_argument_group(group) for group in groups}
    for field in dataclasses.fields(kind):
        sections[field.metadata["group"]].add_argument(f"--{field.name}", **_options(field, types[field.name]))
    return parser


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
    if not _is_empty(default_of(field)):
        shown = default_of(field)
        options["help"] += f" (default: {' '.join(map(str, shown)) if isinstance(shown, list) else shown})"
    if field.metadata["repeatable"]:
        options["action"] = "extend"
    return options


def _without_none(kind: Any) -> Any:
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    return kind if typing.get_origin(kind) is list or not members else members[0]


def default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def _is_empty(value: Any) -> bool:
    return value is None or value == []


def parse(parser: argparse.ArgumentParser, kind: type[T], argv: list[str]) -> tuple[T, list[str]]:
    """Parse a command line. The second value lists unknown flags, with the nearest known ones, for the check to report.

    Raises UserError when a known flag's value is none of its kind, so that nothing more can be said.
    """
    mistakes = []
    namespace, unknown = parser.parse_known_args(argv)
    known = [f"--{field.name}" for field in dataclasses.fields(kind)]
    flags = [word.split("=", 1)[0] for word in unknown if word.startswith("-")]
    mistakes += [f"unknown flag {name}: {nearest(name, known)}" for name in flags if name not in known]
    if not flags and unknown:
        mistakes.append(f"unexpected words, which belong to no flag: {' '.join(unknown)}")
    return kind(**vars(namespace)), mistakes
