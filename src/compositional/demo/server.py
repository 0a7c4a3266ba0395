"""The page's server. It answers to this machine only, and loads nothing from elsewhere.

One answer is made at a time, in one thread, so that the seconds of the methods can be compared. Users take turns, method by method.
A page that is closed ends the work on its answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from compositional.core.errors import UserError
from compositional.demo.answering import Method, Progress
from compositional.experiment.plan import Plan

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
MOST_CHARACTERS = 20_000  # of a conversation
_MOST_BYTES = 8 * MOST_CHARACTERS
_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def listen(port: int) -> socket.socket:
    """A socket of this machine's own address, at which a browser waits from now on; raises UserError for a port that is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"--port {port}: {error.strerror}; choose another, or 0 for any that is free") from error
    return listening


def address(listening: socket.socket) -> str:
    """Where a browser finds the page."""
    return f"http://{HOST}:{listening.getsockname()[1]}/"


def make_server(methods: list[Method]) -> uvicorn.Server:
    """The server of the page. Its `run(sockets=[...])` ends with Ctrl-C."""
    config = uvicorn.Config(make_app(methods), log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=1)
    return uvicorn.Server(config)


def make_app(methods: list[Method]) -> Starlette:
    """The page, what it offers, and the answers."""
    by_name = {method.shown.name: method for method in methods}
    turns = _Turns()

    async def offered(request: Request) -> Response:
        return JSONResponse(_offered(methods))

    async def example(request: Request) -> Response:
        method = by_name.get(request.query_params.get("experiment", ""))
        if not method:
            raise HTTPException(404, "There is no such experiment.")
        chosen = random.choice(method.examples)
        return JSONResponse({"text": chosen.input, "reference": chosen.reference})

    async def answers(request: Request) -> Response:
        text, names = await _read(request, by_name)
        lines = _lines(text, [by_name[name] for name in names], turns)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    return Starlette(
        routes=[
            Route("/offered", offered),
            Route("/example", example),
            Route("/answers", answers, methods=["POST"]),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
        # Another site's page, or a name that is resolved to this address, gets nothing.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(_WithHeaders)],
        exception_handlers={HTTPException: _as_message},
    )


class _WithHeaders:
    """Adds headers to every response, by which a browser loads nothing from elsewhere."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class _Turns:
    """One thread in which answers are made, one at a time, first come, first served."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._turn = asyncio.Lock()

    async def iterate(self, answer: Iterator[Progress]) -> AsyncIterator[Progress]:
        """What an iterator yields, computed in the thread. It is closed when this ends, in whatever way."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            try:
                while (progress := await loop.run_in_executor(self._thread, next, answer, None)) is not None:
                    yield progress
            finally:
                self._thread.submit(answer.close)


async def _lines(text: str, methods: list[Method], turns: _Turns) -> AsyncIterator[str]:
    """The answers of the methods, one after the other: a line of JSON for each token, or one that says why a method failed."""
    for method in methods:
        try:
            async with aclosing(turns.iterate(method.answer(text))) as answer:
                async for progress in answer:
                    yield json.dumps(asdict(progress), ensure_ascii=False) + "\n"
        except UserError as error:
            logger.warning("%s: %s", method.shown.name, error)
            yield json.dumps({"experiment": method.shown.name, "failed": str(error)}, ensure_ascii=False) + "\n"


async def _read(request: Request, known: dict[str, Method]) -> tuple[str, list[str]]:
    """The conversation and the experiments that a page asks; raises HTTPException with what to tell the user."""
    # A page of another site can send other types without being asked by the browser whether it may.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "Send JSON.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"The conversation is too long: at most {MOST_CHARACTERS:,} characters are read.")
    try:
        asked = json.loads(body)
        text, names = asked["text"], list(dict.fromkeys(asked["experiments"]))
        "".join([text, *names]).encode()
        unknown = [name for name in names if name not in known]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HTTPException(400, "Send JSON with a text and a list of experiments.") from error
    if not text.strip():
        raise HTTPException(422, "The conversation is empty: type one, or take a random one.")
    if len(text) > MOST_CHARACTERS:
        raise HTTPException(
            413, f"The conversation is too long: it has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are read."
        )
    if not names or unknown:
        raise HTTPException(422, f"There is no experiment {unknown[0]}." if unknown else "Choose at least one method.")
    return text, names


async def _as_message(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"message": error.detail}, status_code=error.status_code)


def _offered(methods: list[Method]) -> list[dict[str, Any]]:
    """What the page can ask: the experiments, with their tasks, and their costs as recorded."""
    return [
        {
            "experiment": shown.name,
            "label": shown.label,
            "inputs": shown.plan.task_set.inputs_of,
            "main_task": shown.plan.task_set.main_task.instruction,
            "auxiliary_tasks": [task.continuation for task in shown.plan.task_set.tasks[1:]],
            "requests": shown.plan.requests,
            "languages": _languages(shown.plan),
            "model": Path(shown.plan.base.name).name,
            "passes": shown.passes,
            "extra_parameters": shown.extra_parameters,
            "extra_bytes": shown.extra_bytes,
        }
        for shown in (method.shown for method in methods)
    ]


def _languages(plan: Plan) -> list[str]:
    """The language that the text of each pass is to be in."""
    tasks = plan.task_set.tasks
    ends = range(len(tasks) - len(plan.requests) + 1, len(tasks) + 1)  # the tasks that are done after each pass
    return [next((task.language for task in reversed(tasks[:end]) if task.language != "en"), "en") for end in ends]
