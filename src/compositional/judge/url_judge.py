"""A judge model behind an OpenAI-compatible URL, such as that of `vllm serve`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compositional.core.errors import UserError, first_line
from compositional.judge.question import Reply, Request, judge_prompt
from compositional.models.chat import TEMPLATE_DATE
from compositional.tasks import find_task

_LONGEST_REPLY = 16  # tokens
_IN_PARALLEL = 64
# As in our own engine: the word is one of two, nothing of the model's own sampling settings applies, and a template that prints
# the date prints always the same.
_VLLM_OPTIONS = {
    "structured_outputs": {"choice": ["yes", "no"]},
    "repetition_penalty": 1.0,
    "chat_template_kwargs": {"date_string": TEMPLATE_DATE},
}


class UrlJudge:
    """Asks a server, the requests of a batch in parallel. The key, where one is needed, is taken from OPENAI_API_KEY.

    Raises UserError when no server answers, it has no model of the name, or it does not take our kind of request.
    """

    def __init__(self, url: str, model: str) -> None:
        import openai

        self._url, self._model = url, model
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=5, timeout=120)
        self._runner = asyncio.Runner()
        self._root = self._runner.run(self._served_model()).get("root")

    @property
    def identity(self) -> dict[str, Any]:
        """Servers tell no revision; `root` is where vLLM's has the model from."""
        return {"judge": "url", "model": self._model, "revision": None, "root": self._root}

    def start(self) -> None:
        """Ask a question of ours: a server that refuses it would refuse all, and each would count as a failure."""
        (reply,) = self._runner.run(self._ask_all([judge_prompt((find_task("summarization"),), "", "")]))
        if reply.failure:
            raise UserError(f"--judge_url {self._url}: {reply.failure}: {reply.text}")

    def replies(self, requests: list[Request]) -> list[Reply]:
        """One reply per request, in their order; raises UserError when the server can't be asked."""
        questions = [judge_prompt(request.dataset.tasks, request.input, request.output) for request in requests]
        return self._runner.run(self._ask_all(questions))

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
        import openai

        with self._server_errors():
            try:
                answer = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=_LONGEST_REPLY,
                    extra_body=_VLLM_OPTIONS,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                return Reply(first_line(error), failure="the server refuses the request")
            choices = answer.http_response.json()["choices"]
            if not choices:
                return Reply(failure="the server's answer is empty")
            return Reply(choices[0]["message"]["content"] or "")

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
        except openai.APIConnectionError as error:
            raise UserError(f"--judge_url {self._url}: no server answers there; `vllm serve MODEL` starts one") from error
        except openai.APIStatusError as error:
            raise UserError(f"--judge_url {self._url}: the server says {first_line(error)}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"--judge_url {self._url}: what answers there speaks no OpenAI-compatible language") from error
