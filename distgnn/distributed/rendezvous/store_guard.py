"""A secret made by rank 0 for ranks of one host.

It goes through a Unix socket, of which the kernel tells each end who the other one's user is.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
import uuid
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

from distgnn.distributed.rendezvous.authentication import FILE_VARIABLE, VARIABLE
from distgnn.errors import SecretError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed import Store  # type: ignore[attr-defined]  # it is there

_DOOR = "door"
_LOOK_SECONDS = 0.05
_ANSWER_SECONDS = 5.0


@contextmanager
def shared_secret(store: Store, rank: int, given: bytes, deadline: float, *, local: bool) -> Iterator[bytes]:
    """Give the secret of the job while its ranks meet: the one given, or else one that rank 0 makes.

    Args:
        store: Where rank 0 says where it hands out its secret.
        rank: This process's rank.
        given: The secret of this process, or nothing.
        deadline: Until when to ask for it, by the monotonic clock.
        local: Whether all ranks are known to run on this host; elsewhere there is no secret but a given one.

    Raises:
        SecretError: Rank 0 is another user's.
    """
    local = local and hasattr(socket, "SO_PEERCRED")
    if rank > 0:
        yield given or (_asked(store, deadline) if local else b"")
    elif given or not local:
        store.set(_DOOR, "")
        yield given
    else:
        secret = secrets.token_bytes(32)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            name = uuid.uuid4().hex
            listener.bind(_address(name))
            listener.listen()
            listener.settimeout(_LOOK_SECONDS)
            Thread(target=_hand_out, args=(listener, secret), daemon=True).start()
            store.set(_DOOR, name)
            yield secret


def is_offered(store: Store) -> bool:
    """Tell whether rank 0 has made a secret, for it was given none."""
    return bool(store.check([_DOOR]) and store.get(_DOOR))


def user_of(connection: socket.socket) -> int:
    """Return the user of the process at the other end of a Unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _hand_out(listener: socket.socket, secret: bytes) -> None:
    while listener.fileno() >= 0:
        with suppress(OSError):  # nobody came, who came has gone, or the meeting is over
            connection, _ = listener.accept()
            with connection:
                if user_of(connection) == os.getuid():
                    connection.send(secret)


def _asked(store: Store, deadline: float) -> bytes:
    """Ask rank 0 for its secret; nothing where it does not hand one out.

    torchrun's store remembers where that of an earlier attempt did, so that the answer may come later.
    """
    while time.monotonic() < deadline:
        name = store.get(_DOOR).decode(errors="replace")
        if not name:
            return b""
        user, secret = os.getuid(), b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection, suppress(OSError):
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(_address(name))
            user = user_of(connection)
            secret = connection.recv(1024)
        if user != os.getuid():
            raise SecretError(
                f"whoever hands out the job's key is user {user}, this process user {os.getuid()}'s: on one host "
                f"a job without a secret is of one user; give every rank the same {FILE_VARIABLE} or {VARIABLE}"
            )
        if secret:
            return secret
        time.sleep(_LOOK_SECONDS)
    return b""


def _address(name: str) -> str:
    return f"\0distgnn/{name}"
