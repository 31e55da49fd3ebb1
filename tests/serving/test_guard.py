"""The guard keeps within its limits whatever arrives, and passes on what is a call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from pipeline.serving import guard
from pipeline.serving.guard import Guard, Incoming, Message, Receive, Send

GOOD = json.dumps({"dataframe_records": [{"image": "aGk="}]}).encode()
JSON = [(b"content-type", b"application/json")]


class Server:
    """An application that keeps what it is sent, and answers as it is told."""

    def __init__(self, status: int = 200, body: bytes = b"fine") -> None:
        self.status, self.body, self.got = status, body, list[bytes]()
        self.release = asyncio.Event()
        self.release.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        self.got.append((await receive())["body"])
        await self.release.wait()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body[:2], "more_body": True})
        await send({"type": "http.response.body", "body": self.body[2:]})


async def ask(
    app: Guard,
    parts: Iterable[bytes] = (GOOD,),
    headers: Iterable[tuple[bytes, bytes]] = JSON,
    **scope: Any,
) -> tuple[int, bytes]:
    """Send one request; return status and body of the answer."""
    waiting, sent = list(parts), list[Message]()

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()  # as a server does that has no more to tell
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    told = {"type": "http", "path": "/invocations", "method": "POST", "headers": list(headers)}
    await asyncio.wait_for(app({**told, **scope}, receive, send), 60)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_call_is_passed_on_whole_and_its_answer_comes_back() -> None:
    async def run() -> None:
        server = Server()
        app = Guard(server)
        assert await ask(app, [GOOD[:5], GOOD[5:9], GOOD[9:]]) == (200, b"fine")
        assert server.got == [GOOD]
        assert (app.n_calls, app.n_bytes) == (0, 0)
        assert (await ask(app, [GOOD], path="/ping"))[0] == 200

    asyncio.run(run())


def test_errors_lose_the_input_and_the_traceback() -> None:
    told = {"error_code": "X", "message": "Failed to predict data 'x'. \nError: why", "stack": "y"}

    async def run() -> None:
        status, body = await ask(Guard(Server(400, json.dumps(told).encode())))
        assert (status, json.loads(body)["message"]) == (400, "why")
        status, body = await ask(Guard(Server(500, b"Internal Server Error")))
        assert (status, json.loads(body)["error_code"]) == (500, "INTERNAL_ERROR")
        assert "server's log" in json.loads(body)["message"]

    asyncio.run(run())


def test_long_bodies_are_refused_by_their_header_or_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MAX_BODY", 100)
    kept: list[int] = []
    plain = Incoming.part

    async def watched(self: Incoming) -> bytes:
        part = await plain(self)
        kept.append(self.n_kept)
        return part

    monkeypatch.setattr(Incoming, "part", watched)

    async def run() -> None:
        server = Server()
        app = Guard(server)
        assert (await ask(app, [b"x" * 30] * 10))[0] == 413
        assert max(kept) <= 120
        assert (await ask(app, [GOOD], [*JSON, (b"content-length", b"101")]))[0] == 413
        assert server.got == []
        assert (app.n_calls, app.n_bytes) == (0, 0)

    asyncio.run(run())


def test_calls_at_once_are_limited_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_CALLS", 2)

    async def run() -> None:
        server = Server()
        server.release.clear()
        app = Guard(server)
        first = [asyncio.create_task(ask(app)) for _ in range(2)]
        while len(server.got) < 2:
            await asyncio.sleep(0.01)
        assert (await ask(app))[0] == 429
        monkeypatch.setattr(guard, "MAX_CALLS", 9)
        monkeypatch.setattr(guard, "MAX_IN_FLIGHT", 2 * len(GOOD) + 10)
        status, body = await ask(app)
        assert (status, "large calls" in json.loads(body)["message"]) == (429, True)
        server.release.set()
        assert [status for status, _ in await asyncio.gather(*first)] == [200, 200]
        assert (app.n_calls, app.n_bytes) == (0, 0)
        assert (await ask(app))[0] == 200

    asyncio.run(run())


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "READ_SECONDS", 0.05)

    async def run() -> None:
        app = Guard(Server())
        assert (await ask(app, []))[0] == 408
        assert (await ask(app, [], []))[0] == 415, "what is left of it is not waited for"
        assert (app.n_calls, app.n_bytes) == (0, 0)

    asyncio.run(run())


def test_a_server_that_fails_frees_its_place() -> None:
    async def broken(scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001 (ASGI)
        raise RuntimeError("a defect")

    async def run() -> None:
        app = Guard(broken)
        with pytest.raises(RuntimeError, match="a defect"):
            await ask(app)
        assert (app.n_calls, app.n_bytes) == (0, 0)

    asyncio.run(run())


def test_only_the_process_of_the_server_gets_a_guard() -> None:
    import fastapi

    before = fastapi.FastAPI
    guard.guard_server()
    assert fastapi.FastAPI is before
