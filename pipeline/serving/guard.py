"""What stands between the network and MLflow's scoring server.

`mlflow models serve` reads whatever it is sent: bodies of any size and depth, and Parquet, whose
few bytes unfold to gigabytes. It answers some of it with status 500 and tracebacks. The server
makes its application right after it loaded the model, so the model puts this in front of it
(`guard_server`). Behind it come only calls of this form:

    {"dataframe_records": [{"image": "<base64>"}, ...], "params": {...}}
    {"dataframe_split": {"columns": ["image"], "data": [["<base64>"], ...]}, "params": {...}}
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from pipeline.serving.calls import check_call

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SERVER = "mlflow.pyfunc.scoring_server.app"
MAX_BODY = 64 * 2**20
MAX_IN_FLIGHT = 4 * MAX_BODY
"""Bytes of all calls that are being received or answered."""
MAX_CALLS = 64
"""That are being received or answered."""
READ_SECONDS = 60


class Refusal(Exception):
    """A call that is answered with a status and a sentence, and goes no further."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Guard:
    """Receives calls whole, refuses wrong ones, and passes the others on to an application."""

    def __init__(self, app: App) -> None:
        self.app, self.n_calls, self.n_bytes = app, 0, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != "/invocations":
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST":
            await refuse(send, Refusal(405, "allowed is POST"))
            return
        coming, headers = Incoming(receive), dict(scope["headers"])
        self.n_calls += 1
        try:
            if self.n_calls > MAX_CALLS:
                raise Refusal(429, f"{MAX_CALLS} calls are being answered; try again soon")
            check_headers(headers)
            body = await asyncio.wait_for(self.read(coming), READ_SECONDS)
            await asyncio.to_thread(check_body, body)
            await self.app(scope, replay(body, receive), Plain(send))
        except Refusal as refusal:
            if b"expect" not in headers:  # else the client waits for leave to send
                await skip(coming)
            await refuse(send, refusal)
        except TimeoutError:
            await refuse(send, Refusal(408, f"the call took more than {READ_SECONDS} s to come"))
        finally:
            self.n_calls -= 1
            self.n_bytes -= coming.n_kept

    async def read(self, coming: Incoming) -> bytes:
        """Return the body.

        Raises:
            Refusal: if it is too long, or too much is under way.
        """
        parts = []
        while not coming.ended:
            part = await coming.part()
            coming.n_kept += len(part)
            self.n_bytes += len(part)
            if coming.n_kept > MAX_BODY:
                raise too_long()
            if self.n_bytes > MAX_IN_FLIGHT:
                raise Refusal(429, "too many large calls at once; try again soon")
            parts.append(part)
        return b"".join(parts)


class Incoming:
    """A body on its way: what comes next, whether it has ended, how much of it is kept."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.ended, self.n_kept = receive, False, 0

    async def part(self) -> bytes:
        """Return the next part."""
        message = await self.receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return bytes(message.get("body", b""))


class Plain:
    """Sends answers on; from errors it takes what only the server's owner should see."""

    def __init__(self, send: Send) -> None:
        self.send, self.status, self.parts = send, 0, list[bytes]()

    async def __call__(self, message: Message) -> None:
        """Send one part of an answer."""
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self.status = message["status"]
        elif not self.status:
            await self.send(message)
        else:
            self.parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                sentence = error_sentence(b"".join(self.parts))
                await refuse(self.send, Refusal(self.status, sentence))


def error_sentence(body: bytes) -> str:
    """Return what an error of MLflow says, without the input and the traceback."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "the model failed, or took too long; the server's log says why"
    return message.rpartition("\nError: ")[2]


def check_headers(headers: dict[bytes, bytes]) -> None:
    """Refuse a call by its headers.

    Raises:
        Refusal: if it is no JSON, or longer than allowed.
    """
    kind, _, rest = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    charset = rest.strip().replace('"', "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        found = headers.get(b"content-type", b"").decode("latin-1")
        raise Refusal(415, f"Content-Type: found {found!r:.100}; allowed is 'application/json'")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > MAX_BODY:
        raise too_long()


def too_long() -> Refusal:
    """Return the refusal of a long body."""
    return Refusal(413, f"more than {MAX_BODY} bytes; allowed are {MAX_BODY}: send fewer images")


def check_body(body: bytes) -> None:
    """Refuse a body that is no call.

    Raises:
        Refusal: with what was found and what is allowed.
    """
    try:
        check_call(body)
    except ValueError as error:
        raise Refusal(400, str(error)) from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body again, then what the server has to tell."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


async def skip(coming: Incoming) -> None:
    """Let a client send what it has begun to, so that it reads the answer; nothing is kept."""

    async def rest() -> None:
        while not coming.ended:
            await coming.part()

    with suppress(TimeoutError):
        await asyncio.wait_for(rest(), READ_SECONDS)


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer in MLflow's form: an error code and a message, as JSON."""
    code = "INTERNAL_ERROR" if refusal.status >= 500 else "INVALID_PARAMETER_VALUE"
    body = json.dumps({"error_code": code, "message": refusal.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))  # what is still to come is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def guard_server() -> None:
    """Put a guard in front of MLflow's server, if this process is about to make one."""
    if SERVER not in sys.modules:
        return
    import fastapi  # only where MLflow serves

    plain = fastapi.FastAPI

    class GuardedApp(plain):  # type: ignore[misc, valid-type]  # what MLflow calls to make its app
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.guard = Guard(super().__call__)

        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            await self.guard(scope, receive, send)

    fastapi.FastAPI = GuardedApp  # type: ignore[misc]  # MLflow imports it by this name
