"""A chat endpoint of OpenAI's protocol: one question with pictures and sound, one answer in words.

What it sends back is untrusted: bounded in size and time, read as plain data, never followed elsewhere. The key goes to
the endpoint alone and is taken out of whatever it answers.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

MAX_ANSWER = 4 * 2**20
"""Bytes of an answer."""
LONGEST_PAUSE = 60.0
MAX_TOKENS = 1024
_WAIT_AND_ASK = (408, 425, 429)
_HOPELESS = (401, 403, 404, 405)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NoAnswerError(Exception):
    """An endpoint gave no answer to one question. `unreachable`: nothing was there to be asked."""

    def __init__(self, reason: str, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects are errors: the key must not travel to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class ChatEndpoint:
    """Asks `url` (as `http://127.0.0.1:8000/v1`).

    Args:
        url: of the API, without `/chat/completions`.
        model: its name there; "": the only one that the endpoint lists.
        key: sent as a bearer token; "" for none.
        timeout: seconds for one answer.
        tries: of one question.
        pause: seconds before the second try; each further one waits twice as long, up to a minute.
        seed: of the pauses' random part.
    """

    url: str
    model: str = ""
    key: str = ""
    timeout: float = 120.0
    tries: int = 5
    pause: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            fits = False
        if not fits:
            raise UserError(f"--ask {shown(self.url)}: expected an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise UserError("--ask: the address holds a user name or password; give the key by --key-env")
        if not self.key.isascii() or not self.key.isprintable():
            raise UserError("the key holds characters that no HTTP header can; copy it again")
        self.url = self.url.rstrip("/")
        own = [urllib.request.ProxyHandler({})] if parts.hostname in _LOOPBACK else []
        self._opener = urllib.request.build_opener(_NoRedirects, *own)

    def find_model(self) -> str:
        """The name of the model: as given, else the only one listed. Raises UserError where that does not tell."""
        if not self.model:
            try:
                listed = self._talk("/models", None, random.Random(self.seed))
                names = [str(entry["id"]) for entry in listed["data"]]
            except NoAnswerError as error:
                raise UserError(
                    f"{self.url} does not answer ({error}); check the address, and that it runs"
                ) from None
            except (KeyError, TypeError):
                raise UserError(f"{self.url} does not list its models; name one by --model") from None
            if len(names) != 1:
                found = ", ".join(shown(name, 60) for name in names[:5]) or "none"
                raise UserError(f"{self.url} has {len(names)} models ({found}); name one by --model")
            self.model = names[0]
        return self.model

    def ask(
        self, text: str, jpegs: list[bytes], wav: bytes | None, name: str, before: tuple[str, str] | None
    ) -> str:
        """The answer in words.

        Args:
            text: what is asked.
            jpegs: pictures, as data URLs.
            wav: the sound, as `input_audio`.
            name: of the question, which its pauses follow from.
            before: an answer that did not fit, and why.

        Raises:
            NoAnswerError: none came, or none in words.
            UserError: the endpoint refuses all questions, as for a wrong key or an unknown model.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for jpeg in jpegs:
            url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        if wav is not None:
            audio = {"data": base64.b64encode(wav).decode(), "format": "wav"}
            content.append({"type": "input_audio", "input_audio": audio})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if before is not None:
            messages += [
                {"role": "assistant", "content": before[0][:MAX_TOKENS]},
                {
                    "role": "user",
                    "content": f"That does not have the form: {before[1]}. Write the whole text again.",
                },
            ]
        question = {"model": self.model, "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}
        answer = self._talk("/chat/completions", question, random.Random(f"{self.seed} {name}"))
        try:
            choice = answer["choices"][0]
            said = choice["message"]["content"]
            if isinstance(said, list):
                said = "".join(part["text"] for part in said)
            cut = choice.get("finish_reason") == "length"
        except (KeyError, IndexError, TypeError, AttributeError):
            raise NoAnswerError("its answer is not of the chat protocol") from None
        if not isinstance(said, str):
            raise NoAnswerError("its answer holds no text")
        if cut:
            raise NoAnswerError(f"its answer is longer than {MAX_TOKENS} tokens")
        return said

    def _talk(self, path: str, question: dict[str, Any] | None, draw: random.Random) -> Any:
        """The JSON that answers a request, after as many tries as it takes."""
        data = None if question is None else json.dumps(question).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        for attempt in range(1, self.tries + 1):
            pause = min(LONGEST_PAUSE, self.pause * 2 ** (attempt - 1)) * draw.uniform(0.75, 1.25)
            try:
                return self._once(urllib.request.Request(self.url + path, data, headers))
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"status {error.code}{self._said(error)}"
                    stated = error.headers.get("Retry-After", "")
                if error.code in _HOPELESS or 300 <= error.code < 400:
                    raise UserError(f"{self.url}{path} refuses ({reason}); {_remedy(error.code)}") from None
                if error.code < 500 and error.code not in _WAIT_AND_ASK:
                    raise NoAnswerError(reason) from None
                if stated.isdecimal():
                    pause = max(pause, min(LONGEST_PAUSE, float(stated)))
                fault = NoAnswerError(reason)
            except (OSError, http.client.HTTPException) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
                never = isinstance(error, urllib.error.URLError) and not isinstance(cause, TimeoutError)
                fault = NoAnswerError(self._hidden(reason), never)
            except UserError as error:
                fault = NoAnswerError(self._hidden(str(error)))
            if attempt < self.tries:
                time.sleep(pause)
        raise fault

    def _once(self, request: urllib.request.Request) -> Any:
        ends = time.monotonic() + self.timeout
        with self._opener.open(request, timeout=self.timeout) as reply:
            body = b""
            while part := reply.read1(2**16):
                body += part
                if len(body) > MAX_ANSWER:
                    raise UserError(f"its answer has more than {MAX_ANSWER >> 20} MiB")
                if time.monotonic() > ends:
                    raise TimeoutError(f"no whole answer in {self.timeout:g} s")
            if reply.length:
                raise http.client.IncompleteRead(body, reply.length)
        return parse_json(body, "its answer")

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What the endpoint says of an error, shortened."""
        try:
            body = parse_json(error.read(2**16), "its answer")
            said = body["error"]["message"] if isinstance(body.get("error"), dict) else body.get("message")
        except (UserError, OSError, http.client.HTTPException, KeyError, AttributeError):
            return ""
        return f": {self._hidden(str(said))}" if said else ""

    def _hidden(self, text: str) -> str:
        """A text on one line without the key."""
        return shown(text.replace(self.key, "…") if self.key else text, 120)


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "give its key in the environment variable that --key-env names"
    if status == 404:
        return "check the address (it ends in /v1 for most servers) and --model"
    return "check the address"
