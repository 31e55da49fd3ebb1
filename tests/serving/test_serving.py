"""`mlflow models serve`, over HTTP: the same answers, a 4xx for every mistake, and still alive."""

from __future__ import annotations

import io
import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from pipeline.registry.client import encode_images
from pipeline.serving.calls import MAX_IMAGES
from pipeline.serving.guard import MAX_BODY
from tests.helpers.registry_world import NAME, World, b64, frame, served, tracked_at
from tests.serving.test_model import huge_png

Server = tuple[str, "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def server(registry_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this module: what one sends must not harm the next."""
    folder = tmp_path_factory.mktemp("server")
    with (
        tracked_at(registry_world.uri),
        served(f"models:/{NAME}@champion", folder) as (address, process),
    ):
        yield address, process


@pytest.fixture
def call(server: Server, world: World) -> Iterator[Any]:
    """Post a body; afterwards the server must still answer, in the same process."""
    address, process = server

    def post(body: Any, kind: str | None = "application/json") -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if kind is None else {"Content-Type": kind}
        return requests.post(f"{address}/invocations", data=data, headers=headers, timeout=120)

    yield post
    good = {"dataframe_records": [{"image": b64(world.images["fruit"][0])}]}
    assert post(good).status_code == 200, "still serving"
    assert process.poll() is None


def records(*images: Any) -> dict[str, Any]:
    return {"dataframe_records": [{"image": image} for image in images]}


def refused(answer: requests.Response, status: int, message: str) -> None:
    """Check that an answer is a sentence, and tells nothing of the server's insides."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"error_code", "message"}
    assert message in told["message"]
    assert "Traceback" not in told["message"]
    assert len(told["message"]) < 4000


def test_the_same_answers_as_in_python(call: Any, world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(world.images["tools"][0])
    rows = encode_images([path]).to_dict(orient="records")
    expected = world.load().predict(frame([path.read_bytes()]), params={"task": "tools"})
    [wanted] = expected.to_dict(orient="records")
    split = {"dataframe_split": {"columns": ["image"], "data": [[rows[0]["image"]]]}}
    for body in ({"dataframe_records": rows}, split, {**split, "params": None}):
        task = {"params": {**(body.get("params") or {}), "task": "tools"}}
        done = call({**body, **task})
        assert done.status_code == 200, done.text
        [answer] = done.json()["predictions"]
        assert answer["top_classes"] == wanted["top_classes"]
        for key in ("probability", "top_probabilities"):  # threads change the last digits
            assert answer[key] == pytest.approx(wanted[key], rel=1e-4)
    named = call(records(rows[0]["image"]) | {"params": {"classes": ["zebra", "ox"]}})
    assert named.json()["predictions"][0]["class_name"] in ("zebra", "ox")


def test_bad_images_get_a_sentence_each(call: Any, world: World, tmp_path: Path) -> None:
    png = world.images["fruit"][0]
    path = tmp_path / "real.png"
    path.write_bytes(png)
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG")
    for image, message in (
        (b64(b"a text file, no picture"), "no readable image"),
        (b64(png[: len(png) // 2]), "image 0: a damaged or truncated PNG image"),
        (b64(jpeg.getvalue()[:-40]), "image 0: a damaged or truncated JPEG image"),
        (b64(huge_png(8000, 8000)), "64000000 pixels; expected at most 32000000"),
        (b64(huge_png(30_000, 30_000)), "exceeds limit"),
        (b64(bytes(17 * 2**20)), "17825792 bytes; allowed are 16777216"),
        (str(path), "paths and addresses are not opened"),
        (f"file://{path}", "paths and addresses are not opened"),
        ("http://127.0.0.1:9/cat.png", "paths and addresses are not opened"),
        ("", "no readable image"),
        ("A" * 4001, "no base64"),
    ):
        refused(call(records(image)), 400, message)
    both = call(records(b64(png), b64(b"bad"), b64(png), "???"))
    refused(both, 400, "2 of 4 image(s) cannot be read")
    assert "image 1:" in both.text
    assert "image 3:" in both.text


def test_too_much_at_once_is_refused(call: Any, world: World) -> None:
    small = b64(world.images["fruit"][0])
    refused(call(records(*[small] * 10_000)), 400, f"10000 rows; allowed are {MAX_IMAGES} at once")
    refused(call(records(*[b64(huge_png(5000, 6000))] * 18)), 400, "540000000 pixels in all")
    refused(call(b" " * (MAX_BODY + 1)), 413, f"allowed are {MAX_BODY}")
    assert call(records(*[small] * 200)).status_code == 200


def test_a_body_without_end_is_cut_off(server: Server, call: Any) -> None:
    """Chunked, so no header tells its length; none of it is kept beyond the limit."""
    part = b"x" * 2**20
    parts = (part for _ in range(MAX_BODY // len(part) + 3))
    answer = requests.post(
        f"{server[0]}/invocations", data=parts, timeout=120,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    refused(answer, 413, f"allowed are {MAX_BODY}")
    assert call({}).status_code == 400


WRONG = [
    (b"", "no JSON"),
    (b"hello", "no JSON"),
    (b"\xff\xfe", "no JSON"),
    (b"[" * 40_000, "nested too deeply"),
    (b"[" * 60_000, "60000 values; allowed are 50000"),
    (b'{"dataframe_records": ' + b"9" * 5000 + b"}", "no JSON"),
    (None, "found null"),
    ([], "found []"),
    ("text", "found 'text'"),
    ({}, "found the keys []"),
    ({"inputs": ["x"]}, "found the keys ['inputs']"),
    ({"messages": [], "image": ["x"]}, "found the keys"),
    ({**records("x"), "more": 1}, "found the keys"),
    ({"dataframe_records": None}, "found null"),
    ({"dataframe_records": []}, "found []"),
    ({"dataframe_records": {"image": "x"}}, "allowed is a list"),
    ({"dataframe_records": ["x"]}, "row 0: found 'x'"),
    ({"dataframe_records": [{}]}, "found the columns []"),
    ({"dataframe_records": [{"picture": "x"}]}, "found the columns ['picture']"),
    ({"dataframe_records": [{"image": "x", "more": 1}]}, "found the columns ['image', 'more']"),
    (records(None), "image 0: found null; allowed is a string"),
    (records(5), "image 0: found 5; allowed is a string"),
    (records(["x"]), "image 0: found"),
    ({"dataframe_split": {"columns": ["picture"], "data": [["x"]]}}, "['picture']"),
    ({"dataframe_split": {"columns": ["image"], "data": []}}, "found []"),
    ({"dataframe_split": {"columns": ["image"], "data": [["x", "y"]]}}, "allowed is one value"),
    ({"dataframe_split": {"columns": ["image"], "data": [["x"]], "index": [9]}}, "index"),
    ({"dataframe_split": None}, "found null"),
    (records("x") | {"params": 5}, "params: found 5"),
    (records("x") | {"params": {"path": "/etc/passwd"}}, "params: found ['path']"),
    (records("x") | {"params": {"task": "birds"}}, "allowed are ['fruit', 'tools']"),
    (records("x") | {"params": {"task": None}}, "task: found null"),
    (records("x") | {"params": {"task": ["fruit"]}}, "task: found"),
    (records("x") | {"params": {"candidates": "old"}}, "candidates: found 'old'"),
    (records("x") | {"params": {"classes": "zebra"}}, "classes: found 'zebra'"),
    (records("x") | {"params": {"classes": [1]}}, "classes, name 0: found 1"),
    (records("x") | {"params": {"classes": ["a", "a"]}}, "every name once"),
    (records("x") | {"params": {"classes": ["word " * 30]}}, "too long for n_ctx 2"),
    (records("x") | {"params": {"classes": ["\ud800"]}}, "1 to 200 characters"),
]


@pytest.mark.parametrize(("body", "message"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_what_is_no_call_gets_a_sentence(call: Any, body: Any, message: str) -> None:
    refused(call(body), 400, message)


def test_other_kinds_and_methods_are_refused(server: Server, call: Any) -> None:
    """Parquet above all: a few of its bytes unfold to gigabytes."""
    for kind in (None, "text/csv", "application/vnd.apache.parquet", "application/json; charset=x"):
        refused(call(records("x"), kind), 415, "allowed is 'application/json'")
    assert call({}, "Application/JSON; charset=UTF-8").status_code == 400
    answer = requests.get(f"{server[0]}/invocations", timeout=60)
    refused(answer, 405, "allowed is POST")
    assert requests.get(f"{server[0]}/nowhere", timeout=60).status_code == 404


def test_clients_that_leave_or_break_the_protocol_do_no_harm(server: Server, call: Any) -> None:
    """A body that stops in the middle, a head that is none, a socket that closes at once."""
    host, port = server[0].removeprefix("http://").split(":")
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for data in (b"", b"\x00" * 100, head, head + b"Content-Length: 1000\r\n\r\n{"):
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(data)
    assert call({}).status_code == 400


def test_mutated_calls_never_get_a_5xx(server: Server, call: Any, world: World) -> None:
    """Some hundred calls with bytes changed, cut, doubled, or values replaced; seeded."""
    rng = random.Random(0)
    good = records(b64(world.images["fruit"][0])) | {"params": {"classes": ["ox", "zebra"]}}
    text = json.dumps(good).encode()
    values = [
        None,
        True,
        -1,
        1e308,
        "",
        "x",
        [],
        {},
        [[]],
        {"image": 1},
        "\ud800",
        "é" * 99,
        [None],
    ]

    def mutate() -> bytes:
        if rng.random() < 0.5:
            data = bytearray(text)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(data))
                change = rng.choice(["flip", "cut", "double"])
                if change == "flip":
                    data[place] = rng.randrange(256)
                elif change == "cut":
                    del data[place : place + rng.randint(1, 30)]
                else:
                    data[place:place] = data[place : place + rng.randint(1, 30)]
            return bytes(data)
        found = json.loads(text)
        holder = rng.choice(
            [found, found["params"], found["dataframe_records"][0], found["params"]["classes"]]
        )
        key = rng.randrange(2) if isinstance(holder, list) else rng.choice(list(holder))
        holder[key] = rng.choice(values)
        return json.dumps(found).encode()

    bodies = [mutate() for _ in range(400)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, bodies))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 400}, statuses
    assert all(set(a.json()) == {"error_code", "message"} for a in answers if not a.ok)
    assert server[1].poll() is None


def test_mlflow_predict_reads_the_same_calls(world: World, tmp_path: Path) -> None:
    """`mlflow models predict`, from file to file."""
    body = records(b64(world.images["fruit"][0])) | {"params": {"candidates": "base"}}
    (tmp_path / "call.json").write_text(json.dumps(body))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", f"models:/{NAME}@compact"]
    command += ["--env-manager", "local", "-i", "call.json", "-o", "answer.json"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    [answer] = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    expected = world.load("compact").predict(
        frame([world.images["fruit"][0]]), params={"candidates": "base"}
    )
    assert answer["top_classes"] == expected.iloc[0]["top_classes"]
