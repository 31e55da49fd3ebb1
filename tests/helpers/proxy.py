"""A door in front of a server, which tests close, or let answers get lost at."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Door:
    """Passes connections on to a port, as long as it is open.

    Attributes:
        port: its own.
        n_requests: seen so far.
        lost: numbers, counted from 1, of requests that arrive but whose answers are lost.
    """

    def __init__(self, target: int) -> None:
        self.target, self.n_requests, self.lost = target, 0, set[int]()
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self.port = 0
        self.open()

    def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse new connections and break the others."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            end(*pair)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        while data := receive(client):
            if data.split(b" ", 1)[0] in (b"GET", b"POST", b"PATCH", b"PUT", b"DELETE"):
                with self._lock:
                    self.n_requests += 1
            send(server, data)
        end(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        while data := receive(server):
            if self.n_requests in self.lost:
                break
            send(client, data)
        end(client, server)


def receive(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


def send(target: socket.socket, data: bytes) -> None:
    try:
        target.sendall(data)
    except OSError:
        target.close()


def end(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):  # the other side was quicker
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextmanager
def door(target: int) -> Iterator[Door]:
    opened = Door(target)
    try:
        yield opened
    finally:
        opened.close()
