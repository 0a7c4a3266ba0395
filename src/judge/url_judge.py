"""A judge model behind an OpenAI-compatible URL, such as that of `vllm serve`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from src.errors import UserError, first_line
from src.judge import Reply, Request
from src.judge.prompts import judge_prompt

_LONGEST_REPLY = 16


class UrlJudge:
    """Asks a server, all requests of a batch at a time. The key, where one is needed, is taken from OPENAI_API_KEY.

    Raises UserError when no server answers, or it has no model of the name.
    """

    def __init__(self, url: str, model: str) -> None:
        import openai

        self._url, self._model = url, model
        self._client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=5, timeout=600)
        with _ServerErrors(url):
            served = {one.id: one for one in self._client.with_options(max_retries=1, timeout=30).models.list()}
        if model not in served:
            raise UserError(f"--judge_model_name_or_path {model}: the server at {url} has {', '.join(served) or 'no model'}")
        self._root = getattr(served[model], "root", None)

    @property
    def identity(self) -> dict[str, Any]:
        """Servers tell no revision; `root` is where vLLM's has the model from."""
        return {"judge": "url", "model": self._model, "revision": None, "root": self._root}

    def replies(self, requests: list[Request]) -> list[Reply]:
        with ThreadPoolExecutor(max_workers=len(requests)) as threads:
            return list(threads.map(self._reply, requests))

    def _reply(self, request: Request) -> Reply:
        import openai

        question = judge_prompt(request.dataset.tasks, request.input, request.output)
        with _ServerErrors(self._url):
            try:
                completion = self._client.chat.completions.create(
                    model=self._model,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=_LONGEST_REPLY,
                    extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                return Reply(failure=f"the server refuses the request: {first_line(error)}")
        return Reply(completion.choices[0].message.content or "")


class _ServerErrors:
    """Turns a server's silence or refusal into a UserError; what was judged before is kept."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        import openai

        if isinstance(error, openai.APIConnectionError):
            raise UserError(f"--judge_url {self._url}: no server answers there; `vllm serve MODEL` starts one") from error
        if isinstance(error, openai.APIStatusError):
            raise UserError(f"--judge_url {self._url}: the server says {first_line(error)}") from error
