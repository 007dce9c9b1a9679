"""Watching libdgl's sockets for peers that are gone.

It keeps no time, spins on a connection that was closed, and ends the process when it cannot send. So its sockets are
watched from outside, by their state in the kernel, and are taken away from it when their peer is gone.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_ESTABLISHED, _LISTENING = 1, "0A"
_HALF_OPEN_SECONDS = 5
_handlers: list[object] = []  # C code points to them


class Connections:
    """The TCP connections of libdgl in this process.

    Args:
        own: The ``address:port`` where this process lets the other side connect.
        peers: The ``address:port`` where each of the other side lets this process connect.
        timeout: Seconds after which data that a peer's host does not acknowledge means that it is gone.
    """

    def __init__(self, own: str, peers: Iterable[str], timeout: float) -> None:
        self._open: list[tuple[str, int, socket.socket]] = []
        self._silent = socket.socketpair()
        self._lost: dict[str, None] = {}
        self._own = own
        ours = {own, *peers}
        for file in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                self._watch(int(file.name), ours, timeout)
        stop_threads_that_cannot_send(lambda: bool(self.lost()))

    def _watch(self, number: int, ours: set[str], timeout: float) -> None:
        if not Path(f"/proc/self/fd/{number}").readlink().name.startswith("socket:"):
            return
        connection = socket.socket(fileno=os.dup(number))
        names = _ends(connection) & ours
        if not names:
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _HALF_OPEN_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))
        self._open.append((names.pop(), number, connection))

    def lost(self) -> list[str]:
        """Return the peers to which the connection has ended."""
        ended = [name for name, _, connection in self._open if name != self._own and not _alive(connection)]
        self._lost.update(dict.fromkeys(ended))
        return list(self._lost)

    def silence(self) -> None:
        """Give libdgl connections on which nothing is ever heard, in place of those that have ended."""
        for name, number, connection in list(self._open):
            if not _alive(connection):
                os.dup2(self._silent[0].fileno(), number)
                connection.close()
                self._open.remove((name, number, connection))


def _ends(connection: socket.socket) -> set[str]:
    if connection.family != socket.AF_INET:
        return set()
    try:
        return {"{}:{}".format(*end) for end in (connection.getsockname(), connection.getpeername())}
    except OSError:
        return set()  # it listens, or is not connected


def _alive(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED


def stop_threads_that_cannot_send(lost: Callable[[], bool]) -> None:
    """Let a thread of libdgl that cannot send stop, which would end the process otherwise.

    Args:
        lost: Tells whether a connection is lost, so that any other C++ error still ends the process.
    """
    library = ctypes.CDLL("libstdc++.so.6")
    handler_type = ctypes.CFUNCTYPE(None)

    def on_terminate() -> None:
        while threading.current_thread() is not threading.main_thread() and lost():
            time.sleep(3600)
        handler_type(before)()

    _handlers.append(handler_type(on_terminate))
    set_terminate = library["_ZSt13set_terminatePFvvE"]
    set_terminate.restype = ctypes.c_void_p
    before = set_terminate(_handlers[-1])


def end_without_destructors() -> None:
    """Have the process end with its exit code, but without the destructors of what libdgl has made until now.

    They wait for its threads, which may wait for somebody who is gone.
    """
    process = ctypes.CDLL(None)
    process.on_exit(process._exit, None)  # noqa: SLF001  # the C function


def is_listening(address: str, port: int) -> bool:
    """Tell whether somebody on this host waits there, without taking the place of who is waited for."""
    wanted = f"{struct.unpack('<I', socket.inet_aton(address))[0]:08X}:{port:04X}"
    rows = (line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines())
    return any(row[1] == wanted and row[3] == _LISTENING for row in rows)


def free_port(address: str, ports: Sequence[int]) -> int:
    """Return the first of ``ports`` that is free at this host's ``address``; 0 is any.

    Raises:
        OSError: All are taken, or the address is not this host's.
    """
    *early, last = ports
    for port in early:
        with suppress(OSError):
            return _bound_port(address, port)
    return _bound_port(address, last)


def _bound_port(address: str, port: int) -> int:
    with socket.socket() as listener:
        # Connections that were closed a moment ago do not matter; libdgl sets the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        return int(listener.getsockname()[1])
