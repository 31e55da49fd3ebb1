"""Serve prompts over HTTP, also to strangers: MLflow's calls and answers, with limits of our own.

    POST /invocations    {"dataframe_records": [{"image": "<base64>"}, ...], "params": {...}}
                         {"dataframe_split": {"columns": ["image"], "data": [["<base64>"], ...]}}
                         {"inputs": {"image": ["<base64>", ...]}}
    GET  /ping, /health, /version

Errors are MLflow's, too: `{"error_code": ..., "message": ...}`, the message one sentence. What an
error of ours says stays in the log.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Annotated, Literal, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError, model_validator
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.core.config import Config
from pipeline.serving.classify import MAX_IMAGES, classify
from pipeline.serving.predictor import Predictor

MAX_BODY = 64 * 2**20
MAX_IN_FLIGHT = 4 * MAX_BODY
"""Bytes of all calls that are being received or answered."""
MAX_CALLS = 64
"""That are being received, wait, or are answered; of these AT_ONCE are computed."""
AT_ONCE = 2
MAX_CONNECTIONS = 512
MAX_HEAD = 16 * 2**10
"""Bytes of a request's line and headers."""
PATIENCE_S = 60
"""For a request's head, for its body, and for its turn."""
MAX_VALUES = 50_000
"""Commas and brackets: base64 has none, and every value of a call costs one."""

T = TypeVar("T")
Rows = Annotated[list[T], Field(min_length=1, max_length=MAX_IMAGES)]


class Row(Config):
    """A row of a table."""

    image: str


class Table(Config):
    """A table as pandas splits it; the index has no meaning here."""

    columns: tuple[Literal["image"]]
    data: Rows[tuple[str]]
    index: list[int] | None = None


class Columns(Config):
    """A table by columns."""

    image: Rows[str]


class Params(Config):
    """What `classify` takes beside the images."""

    task: str | None = None
    candidates: Literal["all", "base", "new"] = "all"
    classes: list[str] = []


class Call(Config):
    """The body of a call: images in one of three forms, and parameters."""

    dataframe_records: Annotated[list[Row], Field(min_length=1, max_length=MAX_IMAGES)] | None = (
        None
    )
    dataframe_split: Table | None = None
    inputs: Columns | None = None
    params: Params | None = None

    @model_validator(mode="after")
    def _once(self) -> Call:
        forms = self.dataframe_records, self.dataframe_split, self.inputs
        if sum(form is not None for form in forms) != 1:
            raise ValueError("expected one of dataframe_records, dataframe_split and inputs")
        return self

    @property
    def images(self) -> list[str]:
        """The images, base64."""
        if self.dataframe_records is not None:
            return [row.image for row in self.dataframe_records]
        if self.dataframe_split is not None:
            return [image for (image,) in self.dataframe_split.data]
        assert self.inputs is not None
        return self.inputs.image


def parse_call(body: bytes) -> Call:
    """Read a body.

    Raises:
        ValueError: in one sentence, if it is no call, or asks for too much.
    """
    n_values = sum(map(body.count, (b",", b"[", b"{")))
    if n_values > MAX_VALUES:
        raise ValueError(f"got {n_values} values; expected at most {MAX_VALUES}: send fewer images")
    try:
        return Call.model_validate_json(body)
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False, include_context=False, include_input=False)
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {message}".removeprefix(": ")[:300]) from None


class Entrance:
    """Receives bodies whole, while there is room for them, and lets AT_ONCE calls compute."""

    def __init__(self) -> None:
        self.n_calls = self.n_bytes = 0
        self.computing = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """Give the body of a request; it takes up room until the block ends.

        Raises:
            HTTPException: 408, 413, 415 or 429.
        """
        received, parts = 0, list[bytes]()
        self.n_calls += 1
        try:
            try:
                if self.n_calls > MAX_CALLS:
                    raise busy(429, f"{MAX_CALLS} calls are being answered")
                check_headers(request)
                async with asyncio.timeout(PATIENCE_S):
                    async for part in request.stream():
                        received += len(part)
                        self.n_bytes += len(part)
                        if received > MAX_BODY:
                            raise too_long()
                        if self.n_bytes > MAX_IN_FLIGHT:
                            raise busy(429, "too many large calls at once")
                        parts.append(part)
            except TimeoutError:
                late = f"the body took more than {PATIENCE_S} s"
                raise HTTPException(408, late, {"Connection": "close"}) from None
            except HTTPException:
                await skip(request)
                raise
            yield b"".join(parts)
        finally:
            self.n_calls -= 1
            self.n_bytes -= received

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until this call may compute.

        Raises:
            HTTPException: 503, if that takes too long.
        """
        try:
            await asyncio.wait_for(self.computing.acquire(), PATIENCE_S)
        except TimeoutError:
            raise busy(503, "the server is busy") from None
        try:
            yield
        finally:
            self.computing.release()


def check_headers(request: Request) -> None:
    """Refuse what is not JSON, or longer than allowed.

    Raises:
        HTTPException: 413 or 415.
    """
    found = request.headers.get("content-type", "")
    kind, _, rest = found.lower().partition(";")
    charset = rest.strip().replace('"', "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise HTTPException(415, f"Content-Type: got {found!r:.100}; expected 'application/json'")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY:
        raise too_long()


async def skip(request: Request) -> None:
    """Let a client send the rest of a body, so that it reads the answer; nothing is kept.

    One that expects `100 Continue` has not begun.
    """
    if "expect" not in request.headers:
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(PATIENCE_S):
                async for _ in request.stream():
                    pass


def too_long() -> HTTPException:
    """Return the refusal of a long body."""
    return HTTPException(413, f"got more than {MAX_BODY} bytes; send fewer images at once")


def busy(status: int, why: str) -> HTTPException:
    """Return the refusal of a call that may come again."""
    return HTTPException(status, f"{why}; try again soon", {"Retry-After": "5"})


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in MLflow's form."""
    code = "INTERNAL_ERROR" if status >= 500 else "INVALID_PARAMETER_VALUE"
    return JSONResponse({"error_code": code, "message": message}, status, headers)


def make_app(predictor: Predictor) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Loqua", openapi_url=None)  # no page of the API: it loads foreign scripts
    app.state.entrance = entrance = Entrance()

    def answer(call: Call) -> str:
        params = call.params or Params()
        columns = classify(predictor, call.images, params.task, params.candidates, params.classes)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return json.dumps({"predictions": rows})

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        async with entrance.receive(request) as body:
            call = await asyncio.to_thread(parse_call, body)
            async with entrance.turn():
                if await request.is_disconnected():
                    raise ClientDisconnect
                text = await asyncio.to_thread(answer, call)
        return Response(text, media_type="application/json")

    @app.get("/ping")
    @app.get("/health")
    async def health() -> Response:
        return Response("\n", media_type="application/json")

    @app.get("/version")
    async def loqua_version() -> Response:
        return Response(version("loqua"), media_type="text/plain")

    @app.exception_handler(AnyHTTPException)
    async def refused(_: Request, error: AnyHTTPException) -> Response:
        return refusal(error.status_code, error.detail, error.headers)

    @app.exception_handler(ValueError)
    async def wrong(_: Request, error: ValueError) -> Response:
        return refusal(400, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return refusal(400, "the client is gone")

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return refusal(500, "the server failed; its log says why")

    return app


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request's head does not arrive in time.

    uvicorn 0.54 has such a limit between two requests, but stops the clock at the first byte, and
    never starts it on a new connection: an idle client holds its connection for ever. These two
    methods can go when uvicorn has a timeout for heads (wished for in uvicorn#157).
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, which the end of a request's head stops."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Let the clock run on."""
        self.conn.receive_data(data)
        self.handle_events()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ValueError: if the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"{host}, port {port}: cannot listen: {error.strerror}") from None
    # asyncio (Python 3.11) turns Nagle's algorithm off only for sockets that name TCP as protocol;
    # with it, every answer waits 40 ms for a delayed acknowledgement (uvicorn#3149).
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


def make_server(predictor: Predictor) -> uvicorn.Server:
    """Return a server that is not started; `run(sockets=[listen(...)])` serves until a signal."""
    return uvicorn.Server(
        uvicorn.Config(
            make_app(predictor),
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=PATIENCE_S,
            timeout_graceful_shutdown=10,
        )
    )
