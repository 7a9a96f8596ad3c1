"""A small chat endpoint of OpenAI's protocol on this machine, with faults on demand."""

from __future__ import annotations

import base64
import io
import json
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from helpers.serving import serving

GOOD = "A bright pattern wanders over the screen. <S>Look!<E> <AUDCAP>soft hissing noise<ENDAUDCAP>"


@dataclass
class Question:
    """A question as it arrived: its text, sizes of the pictures, seconds of the sound (None: none), turns, and key."""

    model: str
    text: str
    pictures: list[tuple[int, int]]
    seconds: float | None
    turns: list[str]
    key: str | None


class ChatServer(ThreadingHTTPServer):
    """Answers `GOOD`. `faults`: what happens to the next questions in turn instead: a status (401, 429, 500), "slow"
    (nothing for a second), "closed" (the connection ends without a word), "half" (in the middle of the answer), "html",
    or a text that is the answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Chat)
        self.faults: list[int | str] = []
        self.asked: list[Question] = []
        self.models = ["captioner-1"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the server's."""


class _Chat(BaseHTTPRequestHandler):
    server: ChatServer

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._send(404, {"error": {"message": "no such page"}})
        return self._send(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = self._parsed(asked)
        self.server.asked.append(question)
        fault = self.server.faults.pop(0) if self.server.faults else GOOD
        answer = {"choices": [{"message": {"role": "assistant", "content": fault}, "finish_reason": "stop"}]}
        if fault == "closed":
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(1)
            return self._send(200, answer)
        if fault == "html":
            return self._send(200, b"<html>proxy</html>")
        if isinstance(fault, int):
            said = {"error": {"message": f"no, {question.key}, not now"}}
            return self._send(fault, said, {"Retry-After": "0", "Location": "http://127.0.0.1:9/"})
        return self._send(200, answer, cut=fault == "half")

    def _parsed(self, asked: dict[str, Any]) -> Question:
        content = asked["messages"][0]["content"]
        pictures, seconds, text = [], None, ""
        for part in content:
            if part["type"] == "text":
                text = part["text"]
            elif part["type"] == "image_url":
                head, _, data = part["image_url"]["url"].partition(",")
                assert head == "data:image/jpeg;base64"
                pictures.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
            else:
                assert part["input_audio"]["format"] == "wav"
                with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) as sound:
                    seconds = sound.getnframes() / sound.getframerate()
        turns = [turn["content"] for turn in asked["messages"][1:]]
        return Question(asked["model"], text, pictures, seconds, turns, self.headers.get("Authorization"))

    def _send(
        self, status: int, value: Any, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """The server while it runs."""
    with serving(ChatServer()) as server:
        yield server
