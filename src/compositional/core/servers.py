"""Servers that speak JSON over HTTP. No proxy is asked."""

from __future__ import annotations

import json
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from compositional.core.errors import first_line


class NoAnswerError(Exception):
    """A server that does not answer, refuses, or says what is not expected; the message begins with its address."""


def is_url(text: str) -> bool:
    """Whether a text is an address such as http://localhost:8080."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a broken port or address
        return False


def ask(url: str, question: dict[str, Any] | None = None, timeout: float = 30.0) -> Any:
    """The server's answer to a GET, or to a POST of `question`; `timeout` is in seconds.

    Raises NoAnswerError when no server answers, when it refuses, and when its answer is no JSON.
    """
    with open_answer(url, question, timeout) as answer:
        try:
            return json.loads(answer.read())
        except ValueError as error:
            raise NoAnswerError(f"{url}: what answers there is no JSON") from error
        except (OSError, HTTPException) as error:
            raise NoAnswerError(f"{url}: the server's answer broke off: {first_line(error)}") from error


def open_answer(url: str, question: dict[str, Any] | None, timeout: float) -> HTTPResponse:
    """The server's answer, to be read; closing it ends the connection. Raises NoAnswerError when none answers, or it refuses."""
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return directly.open(request, timeout=timeout)
    except HTTPError as error:
        raise NoAnswerError(f"{url}: the server says {error.code}: {_message(error)}") from error
    except (OSError, HTTPException) as error:
        raise NoAnswerError(f"{url}: no server answers there: {first_line(getattr(error, 'reason', error))}") from error


def _message(error: HTTPError) -> str:
    """What a server says in the body of an error, else the error's own name."""
    try:
        return first_line(ValueError(json.loads(error.read())["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
