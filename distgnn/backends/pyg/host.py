"""The ranks of one host: rows between them through shared memory, past every network.

The memory has no name in any file system: it goes with the last process that maps it, however that ends. Its
descriptors, and word that there is something to read, go through Unix sockets between the ranks; a socket also tells
at once that its other end is gone. Only processes of this user that know the job's key get one.
"""

from __future__ import annotations

import errno
import hmac
import mmap
import os
import secrets
import select
import socket
import struct
import time
import uuid
from collections import defaultdict
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from distgnn.distributed.rendezvous.authentication import sign
from distgnn.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # it is there

    from distgnn.distributed.rendezvous.join import Job

_SPINNING = 2e-4  # seconds
_LOOK_SECONDS = 0.5
_RANK = struct.Struct("<q")
_NONCE = 32  # bytes


class Host:
    """This rank and its neighbours in number that run on the same host.

    Args:
        rank: This rank.
        job: All ranks; None keeps this one to itself.
        timeout: Seconds that a rank waits for another.
        look: Called again and again while it waits; what it raises ends the waiting.

    Attributes:
        members: The ranks of this host, as far as they follow each other in number.

    Raises:
        OSError: A rank of this host cannot be reached.
    """

    def __init__(
        self, rank: int, job: Job | None = None, timeout: float = 0.0, look: Callable[[], None] = lambda: None
    ) -> None:
        self._rank, self._timeout, self._look = rank, timeout, look
        self.members = range(rank, rank + 1)
        self._peers: dict[int, socket.socket] = {}
        # Two boxes in turn: word of a peer's next message means that it has read my last but one.
        self._turn = 0
        self._own = [torch.empty(0, dtype=torch.uint8)] * 2
        self._others: dict[tuple[int, int], Tensor] = defaultdict(lambda: torch.empty(0, dtype=torch.uint8))
        if job is not None and job.store is not None:
            try:
                self._connect(job.store, job.size, job.key, timeout)
            except BaseException:
                self.close()
                raise

    def exchange(self, outgoing: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """Exchange pieces of bytes between the members; every member calls it, and none returns before all have called.

        Args:
            outgoing: For each member, this one too, the same number of pieces: uint8 vectors of any length.

        Returns:
            From each member, its pieces for this rank; to be read before the next exchange.

        Raises:
            OSError: A member is gone, or silent for too long.
        """
        turn, self._turn = self._turn, 1 - self._turn
        ends = list(accumulate((_aligned(piece.numel()) for part in outgoing for piece in part), initial=0))
        grown = []
        if ends[-1] > self._own[turn].numel():
            grown = [_allocated(2 * ends[-1])]
            self._own[turn] = _mapped(os.dup(grown[0]))
        places = iter(ends)
        try:
            for member, part in zip(self.members, outgoing, strict=True):
                spans = [(next(places), piece.numel()) for piece in part]
                if member == self._rank:
                    continue
                for (start, length), piece in zip(spans, part, strict=True):
                    self._own[turn][start : start + length] = piece
                # A count comes first, for a message of nothing would read as the end of the connection.
                message = struct.pack(f"<q{2 * len(spans)}q", len(spans), *chain.from_iterable(spans))
                socket.send_fds(self._peers[member], [message], grown)
        finally:
            for descriptor in grown:
                os.close(descriptor)
        return [
            outgoing[number] if member == self._rank else self._pieces(member, turn)
            for number, member in enumerate(self.members)
        ]

    def _pieces(self, member: int, turn: int) -> list[Tensor]:
        message, descriptors = self._received(member)
        if descriptors:
            self._others[member, turn] = _mapped(descriptors[0])
        numbers = struct.unpack(f"<{len(message) // 8}q", message)[1:]
        return [
            self._others[member, turn][start : start + length]
            for start, length in zip(*[iter(numbers)] * 2, strict=True)
        ]

    def share(self, num_bytes: int, name: str) -> Tensor:
        """Return memory ``[num_bytes]`` of zeros that all members have in common; each of them calls it.

        Args:
            num_bytes: How much, at least 1.
            name: What it is for, for the text of an error.

        Raises:
            StoreError: There is not so much memory.
            OSError: A member is gone, or silent for too long.
        """
        if not self._peers:
            return torch.zeros(num_bytes, dtype=torch.uint8)
        if self._rank > self.members[0]:
            failure, descriptors = self._received(self.members[0])
        else:
            failure, descriptors = b"-", []
            try:
                descriptors = [_allocated(num_bytes)]
            except OSError as error:
                failure = str(error).encode()
            for connection in self._peers.values():
                socket.send_fds(connection, [failure], descriptors)
        if not descriptors:
            raise StoreError(
                f"{num_bytes:,} bytes of shared memory for store {name!r} cannot be had on this host "
                f"({failure.decode()}): use more hosts, or a smaller table"
            )
        return _mapped(descriptors[0])

    def _received(self, member: int) -> tuple[bytes, list[int]]:
        connection, begin = self._peers[member], time.perf_counter()
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(connection, 1024, 1)
            except BlockingIOError:
                # A message is mostly near: to look for it again is quicker than to sleep and be woken.
                if time.perf_counter() - begin < _SPINNING:
                    os.sched_yield()
                elif not self._readable(connection):
                    raise TimeoutError(f"rank {member} says nothing") from None
                continue
            if not message:
                raise ConnectionResetError(f"rank {member} has closed its connection")
            return message, descriptors

    def _readable(self, connection: socket.socket) -> bool:
        waiting, deadline = select.poll(), time.monotonic() + self._timeout
        waiting.register(connection, select.POLLIN)
        while not waiting.poll(1e3 * min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
            self._look()
        return True

    def close(self) -> None:
        """Leave the other members, who notice it."""
        for connection in self._peers.values():
            connection.close()
        self._peers.clear()
        self._own.clear()
        self._others.clear()

    def _connect(self, store: PrefixStore, size: int, key: bytes, timeout: float) -> None:
        here, address = _name_of_host(), f"\0distgnn/{uuid.uuid4().hex}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
            listener.listen(size)
            listener.settimeout(timeout)
            store.set(f"host/{self._rank}", f"{here} {address[1:]}")
            names = [store.get(f"host/{rank}").decode().split() for rank in range(size)]
            first = last = self._rank
            while first > 0 and names[first - 1][0] == here:
                first -= 1
            while last + 1 < size and names[last + 1][0] == here:
                last += 1
            self.members = range(first, last + 1)
            for peer in range(first, self._rank):
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                connection.settimeout(timeout)
                self._peers[peer] = connection
                connection.connect("\0" + names[peer][1])
                if not _is_own_user(connection) or not _introduced(connection, self._rank, key):
                    raise ConnectionRefusedError(f"whoever listens as rank {peer} is not of this job")
            while len(self._peers) < len(self.members) - 1:
                connection, _ = listener.accept()
                connection.settimeout(timeout)
                peer = _admitted(connection, key) if _is_own_user(connection) else -1
                if peer in self._peers or peer not in self.members:
                    connection.close()  # a stranger; the rank itself may yet come
                    continue
                self._peers[peer] = connection
            for connection in self._peers.values():
                connection.setblocking(False)


def _name_of_host() -> str:
    """Name what ranks must have in common to reach each other here: the kernel, the network namespace and the user."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        network = Path("/proc/self/ns/net").stat().st_ino
        os.close(os.memfd_create("distgnn"))
    except (AttributeError, OSError):
        return uuid.uuid4().hex  # like no other's: all goes over the network
    return f"{boot}/{network}/{os.getuid()}"


def _is_own_user(connection: socket.socket) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())


def _introduced(connection: socket.socket, rank: int, key: bytes) -> bool:
    """Answer the challenge of who listens, and tell whether they can answer this rank's."""
    challenge, own = connection.recv(_NONCE), secrets.token_bytes(_NONCE)
    connection.send(_RANK.pack(rank) + own + sign(key, "connect", rank, challenge.hex()))
    return hmac.compare_digest(connection.recv(1024), sign(key, "accept", rank, own.hex()))


def _admitted(connection: socket.socket, key: bytes) -> int:
    """Challenge who has connected, and return their rank; -1 where they do not answer as one of this job."""
    challenge = secrets.token_bytes(_NONCE)
    try:
        connection.send(challenge)
        said = connection.recv(1024)
        (rank,) = _RANK.unpack(said[: _RANK.size])
        theirs, answer = said[_RANK.size : _RANK.size + _NONCE], said[_RANK.size + _NONCE :]
        if not hmac.compare_digest(answer, sign(key, "connect", rank, challenge.hex())):
            return -1
        connection.send(sign(key, "accept", rank, theirs.hex()))
    except (OSError, struct.error):
        return -1
    return int(rank)


def _allocated(num_bytes: int) -> int:
    """Return the descriptor of new memory, which is there: no later access finds that there is none."""
    available = psutil.virtual_memory().available
    if num_bytes > available:  # the kernel would try, and end processes on the way
        raise OSError(errno.ENOMEM, f"{available:,} bytes are available")
    descriptor = os.memfd_create("distgnn")
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _mapped(descriptor: int) -> Tensor:
    """Map the whole memory as bytes, and close its descriptor."""
    size = os.fstat(descriptor).st_size
    memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    os.close(descriptor)
    with torch.inference_mode(mode=False):  # else none but that mode may write to it
        return torch.frombuffer(memory, dtype=torch.uint8)


def _aligned(length: int) -> int:
    return -(-length // 64) * 64
