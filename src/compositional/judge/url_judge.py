"""A judge model behind an OpenAI-compatible URL, such as that of `vllm serve`."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from compositional.core.errors import UserError, first_line
from compositional.judge.question import Reply, Request, judge_prompt, verdict_of
from compositional.models.chat import TEMPLATE_DATE
from compositional.tasks import find_task

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_LONGEST_REPLY = 16  # tokens
_LONGEST_THOUGHT = 4096  # tokens of a reply whose model thinks first
_IN_PARALLEL = 64
_LONGEST_WAIT, _LONGEST_WAIT_FOR_A_THOUGHT = 120, 600  # seconds
# As in our own engine: the word is one of two, nothing of the model's own sampling settings applies, and a template that prints
# the date prints always the same. A model that can leave out its thoughts does so.
_VLLM_OPTIONS = {
    "structured_outputs": {"choice": ["yes", "no"]},
    "repetition_penalty": 1.0,
    "chat_template_kwargs": {"date_string": TEMPLATE_DATE, "enable_thinking": False},
}
_OF_EVERY_QUESTION = (401, 402, 404, 429)  # the key, the account, the model, too many questions: another question fares no better


class UrlJudge:
    """Asks a server, the requests of a batch in parallel. The key, where one is needed, is taken from OPENAI_API_KEY.

    Raises UserError when no server answers, it has no model of the name, or it does not take our kind of request.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model
        self._client = _client(url)
        self._runner = asyncio.Runner()
        self._root = self._runner.run(self._served_model()).get("root")
        self._has_judged = False

    @property
    def identity(self) -> dict[str, Any]:
        """Servers tell no revision; `root` is where vLLM's has the model from."""
        return {"judge": "url", "model": self._model, "revision": None, "root": self._root}

    def start(self) -> None:
        """Ask a question of ours: a server that refuses it would refuse all, and each would count as a failure."""
        reply = self._runner.run(self._answer(_OWN_QUESTION))
        if reply.failure:
            raise UserError(f"--judge_url {self._url}: {reply.failure}{f': {reply.text}' if reply.text else ''}")
        self._has_judged = _is_verdict(reply)

    def replies(self, requests: list[Request]) -> list[Reply]:
        """One reply per request, in their order; raises UserError when the server can't be asked."""
        questions = [judge_prompt(request.dataset.tasks, request.input, request.output) for request in requests]
        replies = self._runner.run(self._ask_all(questions))
        self._has_judged = self._has_judged or any(map(_is_verdict, replies))
        if not self._has_judged:
            example = next((reply.text for reply in replies if reply.text), "")[:80]
            fault = f"{self._model} answers none of {len(replies)} questions with yes or no, but for example with {example!r}"
            raise UserError(f"--judge_url {self._url}: {fault}; name another judge")
        return replies

    async def _ask_all(self, questions: list[str]) -> list[Reply]:
        free = asyncio.Semaphore(_IN_PARALLEL)

        async def ask(question: str) -> Reply:
            async with free:
                return await self._ask(question)

        asked = [asyncio.ensure_future(ask(question)) for question in questions]
        try:
            return await asyncio.gather(*asked)
        finally:
            # Where one fails, the others end here: a failure that nobody fetches is printed whenever it is collected as garbage.
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _ask(self, question: str) -> Reply:
        """The reply to a question. Where the server fails on it and answers our own question, the failure is the question's."""
        import openai

        try:
            return await self._answer(question)
        except UserError as error:
            status = error.__cause__
            if not isinstance(status, openai.APIStatusError) or status.status_code in _OF_EVERY_QUESTION:
                raise
            if (await self._answer(_OWN_QUESTION)).failure:
                raise
            return Reply(first_line(status), failure=_REFUSED if status.status_code < 500 else "the server fails on the request")

    async def _answer(self, question: str, max_tokens: int = _LONGEST_REPLY) -> Reply:
        import openai

        thinks = max_tokens != _LONGEST_REPLY
        client = self._client.with_options(timeout=_LONGEST_WAIT_FOR_A_THOUGHT, max_retries=1) if thinks else self._client
        with self._server_errors():
            try:
                answer = await client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=max_tokens,
                    extra_body=_VLLM_OPTIONS,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                return Reply(first_line(error), failure=_REFUSED)
            reply, is_cut_off = _read_completion(answer.http_response.json())
        if is_cut_off and not _is_verdict(reply) and not thinks:
            return await self._answer(question, _LONGEST_THOUGHT)
        return reply

    async def _served_model(self) -> dict[str, Any]:
        """What the server says of the model."""
        with self._server_errors():
            answer = await self._client.with_options(max_retries=1, timeout=30).models.with_raw_response.list()
            served = {one["id"]: one for one in answer.http_response.json()["data"]}
        if self._model not in served:
            known = ", ".join(served) or "no model"
            raise UserError(f"--judge_model_name_or_path {self._model}: the server at {self._url} has {known}")
        return served[self._model]

    @contextmanager
    def _server_errors(self) -> Iterator[None]:
        """Turns a server's silence, refusal or other language into a UserError; what was judged before is kept."""
        import openai

        try:
            yield
        except openai.APITimeoutError as error:
            fault = "the server answers too slowly, or no longer"
            raise UserError(f"--judge_url {self._url}: {fault}; a smaller --batch_size asks less at a time") from error
        except openai.APIConnectionError as error:
            raise UserError(f"--judge_url {self._url}: no server answers there; `vllm serve MODEL` starts one") from error
        except openai.APIStatusError as error:
            raise UserError(f"--judge_url {self._url}: the server says {first_line(error)}") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"--judge_url {self._url}: what answers there speaks no OpenAI-compatible language") from error


_OWN_QUESTION = judge_prompt((find_task("summarization"),), "", "")
_REFUSED = "the server refuses the request"


def _client(url: str) -> AsyncOpenAI:
    """The client of a server. A server on this machine is asked directly, whatever proxy the environment names."""
    import openai

    key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
    if not key.isascii() or not key.isprintable():
        raise UserError("OPENAI_API_KEY has characters that no key has, such as a line break: set it again")
    try:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False) if _is_on_this_machine(url) else None
        return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=5, timeout=_LONGEST_WAIT, http_client=http_client)
    except (ValueError, TypeError, ImportError) as error:  # of a proxy that the environment names
        raise UserError(f"--judge_url {url}: it can't be asked: {first_line(error)}; look at HTTPS_PROXY and ALL_PROXY") from error


def _is_on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _read_completion(body: Any) -> tuple[Reply, bool]:
    """The reply in a server's completion, and whether it was cut off. Raises KeyError or TypeError for something else.

    Some servers report errors as completions: with status 200, and an error in the place of the choices or in one of them.
    """
    choices = body.get("choices") if isinstance(body, dict) and "error" in body else body["choices"]
    choice = choices[0] if choices else {}
    if error := choice.get("error") or body.get("error"):
        message = error.get("message") if isinstance(error, dict) else None
        return Reply(str(message or error), failure="the server answers with an error"), False
    if not choices:
        return Reply(failure="the server's answer is empty"), False
    message = choice["message"]
    if message.get("refusal"):
        return Reply(str(message["refusal"]), failure="the model refuses to answer"), False
    # Of a model that is held to one word, some servers take the word for its thought.
    thought = message.get("reasoning_content") or message.get("reasoning")
    return Reply(_text_of(message.get("content")) or _text_of(thought)), choice.get("finish_reason") == "length"


def _text_of(content: Any) -> str:
    """The text of a message's content, which is a text, a list of parts, null, or of a loosely typed server a number."""
    if isinstance(content, list):
        return "".join(_text_of(part.get("text") if isinstance(part, dict) else part) for part in content)
    return "" if content is None else str(content)


def _is_verdict(reply: Reply) -> bool:
    return verdict_of("", reply).verdict is not None
