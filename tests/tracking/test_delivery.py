import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.tracking import delivery
from pipeline.tracking.delivery import Away, Delivery, Refused

LONG = 60.0


class Other:
    """The other side: away, or not, or choosy; keeps what got through."""

    def __init__(self) -> None:
        self.here = threading.Event()
        self.here.set()
        self.got: list[str] = []
        self.tries: list[bool] = []

    def send(self, word: str) -> Callable[[bool], None]:
        def attempt(again: bool) -> None:
            self.tries.append(again)
            if not self.here.is_set():
                raise Away("no answer")
            if word.startswith("bad"):
                raise Refused("not this one")
            self.got.append(word)

        return attempt


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def queue(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Delivery]:
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.01)
    queue = Delivery("the server", lines.append, limit=5)
    yield queue
    queue.stop()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_all_arrives_in_order(queue: Delivery, other: Other, lines: list[str]) -> None:
    for word in "abcde":
        queue.put(word, other.send(word))
        assert queue.drain(LONG)
    assert other.got == list("abcde")
    assert lines == [], "there is nothing to tell"
    assert queue.n_waiting == 0


def test_outage_holds_nobody_up_loses_nothing_and_is_told_in_two_lines(
    queue: Delivery, other: Other, lines: list[str]
) -> None:
    other.here.clear()
    for word in "abcd":
        assert queue.put(word, other.send(word)), "returns although nothing goes"
    until(lambda: len(other.tries) > 5)
    assert lines == ["the server is away (no answer); going on, 4 wait"]
    assert queue.n_waiting == 4
    other.here.set()
    assert queue.drain(LONG)
    assert other.got == list("abcd")
    assert [line.split(";")[0] for line in lines[1:]] == ["the server is back"]
    assert queue.in_doubt


def test_second_attempt_is_told_that_it_is_one(queue: Delivery, other: Other) -> None:
    other.here.clear()
    queue.put("a", other.send("a"))
    until(lambda: len(other.tries) > 1)
    other.here.set()
    assert queue.drain(LONG)
    assert other.tries[0] is False
    assert all(other.tries[1:])


def test_what_does_not_fit_is_left_out_and_counted(queue: Delivery, other: Other) -> None:
    other.here.clear()
    queue.put("under way", other.send("under way"))
    until(lambda: len(other.tries) > 0)
    taken = [queue.put(str(n), other.send(str(n))) for n in range(8)]
    assert taken == [True] * 5 + [False] * 3
    assert queue.n_left_out == 3
    other.here.set()
    assert queue.drain(LONG)
    assert other.got == ["under way", "0", "1", "2", "3", "4"]


def test_the_newest_of_a_key_is_sent_once(queue: Delivery, other: Other) -> None:
    other.here.clear()
    queue.put("under way", other.send("under way"))
    until(lambda: len(other.tries) > 0)
    for n in range(100):
        assert queue.put("progress", other.send(f"progress {n}"))
    other.here.set()
    assert queue.drain(LONG)
    assert other.got == ["under way", "progress 99"]


def test_delay_lets_others_pass_and_ends_with_the_drain(queue: Delivery, other: Other) -> None:
    queue.put("late", other.send("late"), delay_s=LONG)
    queue.put("soon", other.send("soon"))
    until(lambda: other.got == ["soon"])
    assert queue.drain(LONG)
    assert other.got == ["soon", "late"]


def test_refusal_is_kept_said_once_and_stops_nothing(
    queue: Delivery, other: Other, lines: list[str]
) -> None:
    for word in ("bad 1", "good", "bad 2"):
        queue.put(word, other.send(word))
    assert queue.drain(LONG)
    assert other.got == ["good"]
    assert queue.refused == {"bad 1": "not this one", "bad 2": "not this one"}
    assert lines == ["the server refuses bad 1: not this one"]


def test_drain_gives_up_when_nothing_goes(queue: Delivery, other: Other) -> None:
    other.here.clear()
    queue.put("a", other.send("a"))
    assert not queue.drain(patience_s=0.05)
    assert not queue.drain(patience_s=LONG, at_most_s=0.05)
    assert queue.clear() == 1


def test_drain_counts_its_patience_from_the_last_arrival(
    queue: Delivery, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(delivery.time, "monotonic", lambda: clock[0])

    def slow(again: bool) -> None:
        clock[0] += 9
        other.send("x")(again)

    for n in range(5):
        queue.put(str(n), slow)
    assert queue.drain(patience_s=10), "45 seconds in all, but never 10 without an arrival"
    assert len(other.got) == 5


def test_our_own_mistake_is_not_swallowed(queue: Delivery) -> None:
    def broken(again: bool) -> None:
        raise TypeError(f"a defect, {again}")

    queue.put("a", broken)
    with pytest.raises(TypeError, match="a defect"):
        queue.drain(LONG)
