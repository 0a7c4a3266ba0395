"""Predictions to be judged, and a server that answers as a test tells it to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.judge_attacks import ATTACKS
from compositional.core.workspace import Workspace
from compositional.pocket.examples import MeaningExample, draw_examples
from compositional.pocket.sentences import render_all
from compositional.prediction import Prediction
from compositional.tasks import Task, find_task

RULE = "--judge_model_name_or_path pocket --bootstrap_resamples 1000 "
NOT_POCKETS = "the input is none of Pocket's"


@cache
def examples(source: str, split: str) -> list[MeaningExample]:
    return list(draw_examples(source, split))


def store_predictions(
    workspace: Workspace,
    name: str,
    pairs: list[tuple[str, str]],
    stage: str = "test",
    dataset: str = "pocket_dialogs",
    secondary: str | None = "pocket_dialogs_es",
) -> Path:
    """An experiment's predictions, as run_experiment.py leaves them: inputs and outputs, with ids <stage>_0, <stage>_1 ..."""
    folder = workspace.predictions_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"dataset": dataset, "secondary_task_dataset": secondary}))
    rows = [
        asdict(Prediction(f"{stage}_{number}", given, "not looked at", said, prompt_truncated=False, output_cut_off=False))
        for number, (given, said) in enumerate(pairs)
    ]
    path = workspace.predictions(name, stage)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def right(number: int, split: str = "test") -> tuple[str, str]:
    """The input of a dialogue and its summary in Spanish."""
    example = examples("dialogs", split)[number]
    return example.input, render_all(example.meaning, "es")


def wrong(number: int) -> tuple[str, str]:
    """The input of a dialogue and its summary in English, which was to be Spanish."""
    example = examples("dialogs", "test")[number]
    return example.input, render_all(example.meaning, "en")


# Verdicts: yes, no, no, yes, yes, none.
SIX = [
    right(0),
    (right(1)[0], right(2)[1]),
    wrong(2),
    right(3),
    (right(4)[0], right(4)[1].lower().rstrip(".")),
    ("Nobody says anything.", right(5)[1]),
]
SIX_VERDICTS = ["yes", "no", "no", "yes", "yes", None]


def verdicts(workspace: Workspace, name: str, judge_name: str = "pocket", stage: str = "test") -> list[dict[str, Any]]:
    return [json.loads(line) for line in workspace.verdicts(name, stage, judge_name).read_text(encoding="utf-8").splitlines()]


def partial_of(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def files_in(workspace: Workspace) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}


def without_environment(record: dict[str, Any]) -> dict[str, Any]:
    """A record without versions and commit, which may change between two runs of a test."""
    stages = {stage: {key: found[key] for key in found if key != "environment"} for stage, found in record["stages"].items()}
    return record | {"stages": stages}


NO_CHOICES = b'{"id": "1", "object": "chat.completion", "choices": []}'


class Server:
    """An OpenAI-compatible server of one's own. `asked` has what was received.

    `answer` gives for a question the status and the text, or the whole body as bytes.
    """

    def __init__(self) -> None:
        self.models: dict[str, str] = {"judge": "org/judge-model"}
        self.answer: Callable[[str], tuple[int, str | bytes]] = lambda question: (200, "yes")
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def outputs_asked_about(self) -> list[str]:
        """The outputs in the questions received, but for the first question of a run, which has none in it."""
        return sorted(filter(None, (output_in(request["messages"][0]["content"]) for request in self.asked)))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listed = [{"id": name, "object": "model", "root": root} for name, root in server.models.items()]
                known = self.path == "/v1/models"
                self._send(200 if known else 404, {"object": "list", "data": listed} if known else {"detail": "Not Found"})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/chat/completions"
                server.asked.append(request)
                server.keys.add(self.headers["Authorization"])
                status, text = server.answer(request["messages"][0]["content"])
                if status != 200:
                    self._send(status, {"error": {"message": text, "type": "Error", "code": status}})
                    return
                if isinstance(text, bytes):
                    self._send_bytes(200, text)
                    return
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                self._send(200, {"id": "1", "object": "chat.completion", "model": request["model"], "choices": [choice]})

            def _send(self, status: int, content: Any) -> None:
                self._send_bytes(status, json.dumps(content).encode())

            def _send_bytes(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if body.startswith(b"<") else "application/json")
                self.send_header("Content-Length", str(len(body)))
                with suppress(ConnectionError):  # whoever asked may have been interrupted
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                pass

        return Handler


def composed(main: str, auxiliary: str, variant: str) -> tuple[Task, ...]:
    return find_task(main), find_task(auxiliary, variant)


def parts(question: str) -> tuple[str, str, str]:
    """A question without its data, its input and its output, as they stand between the tags."""
    for tag in ("<input>", "</input>", "<output>", "</output>"):
        assert question.count(tag) == 1, tag
    pattern = r"(.*\n<input>\n)(.*)(\n</input>\n\n<output>\n)(.*)(\n</output>\n.*)"
    before, given, between, said, after = re.fullmatch(pattern, question, re.DOTALL).groups()
    return before + between + after, given, said


def output_in(question: str) -> str:
    return parts(question)[2]


def asking(server: Server, flags: str = "") -> str:
    return f"--experiment_name e --judge_model_name_or_path judge --judge_url {server.url} {flags}"


NUMBERED = [(f"input {number}", f"output {number}") for number in range(6)]
# Outputs that would talk a judge into a verdict, or break its question; none is too long for a tiny judge.
ADVERSARIAL = [output for attack in ATTACKS.values() if len(output := attack("Tom va a cocinar.")) < 200]
