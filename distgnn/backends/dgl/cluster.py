"""A rank of several: its connections to the servers of all hosts."""

from __future__ import annotations

import atexit
import os
import pickle
import time
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

from dgl.distributed import kvstore, rpc

from distgnn.backends.dgl.client import Client
from distgnn.backends.dgl.engine import Engine
from distgnn.backends.dgl.launch import start_servers
from distgnn.backends.dgl.sockets import Connections, end_without_destructors, free_port, is_listening
from distgnn.backends.dgl.wire import (
    QUEUE_BYTES,
    BadSignatureError,
    Call,
    CodeRefusedError,
    Reply,
    ip_config,
    open_wire,
)
from distgnn.distributed.rendezvous.ports import ports_to_try
from distgnn.distributed.rendezvous.waiting import first_line, listed, within
from distgnn.errors import PeerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch
    from torch import Tensor

    from distgnn.backends.dgl.rows import Ranges
    from distgnn.distributed.peers import PeerWatch
    from distgnn.distributed.rendezvous.join import Job

_LOOK_SECONDS = 0.2
_GRACE = 2.0  # seconds in which a server tells who is silent or gone
_NOTICE_SECONDS = 0.5
_HELLO = 1  # the number of a rank's first call


class Cluster(Engine):
    """Asks servers by DGL's RPC.

    The call that waits for an answer looks at the clock, and at the state of the sockets, for libdgl does neither.

    Args:
        job: The ranks.
        timeout: Seconds to wait for the others.
        port: Where each server listens; 0 is any free port, of ``DISTGNN_PORTS`` where that is set.
        peers: Says who is lost.

    Raises:
        PeerLostError: Not all servers and ranks came together in time.
    """

    def __init__(self, job: Job, timeout: float, port: int, peers: PeerWatch) -> None:
        self._peers = peers
        self._servers = start_servers(job, timeout, port, peers.look)
        parts = len(self._servers.addresses)
        super().__init__(job.rank, job.size, self._servers.part, parts, self._servers.name)
        self.parts_of_ranks = self._servers.hosts
        self.first_of_part = self._servers.own is not None
        self._own = f"{job.address}:{free_port(job.address, ports_to_try(job.rank + 1))}"
        open_wire(self._servers.secret)
        try:
            within(timeout, lambda: self._connect(timeout), peers.look)
        except (OSError, RuntimeError, TimeoutError) as error:
            self._servers.stop()
            raise PeerLostError(
                f"rank {self.rank} of {self.size} cannot connect to the DGL servers "
                f"{', '.join(self._servers.addresses)} in {timeout:g} s ({first_line(error)}): each rank must reach "
                "each server, and each server each rank; on several hosts name the interface, as in "
                "GLOO_SOCKET_IFNAME=eth0, and let their firewalls pass all TCP ports, or those of "
                "DISTGNN_PORTS=29500-29600"
            ) from error
        finally:
            end_without_destructors()
        self._connections = Connections(self._own, self._servers.addresses, timeout)
        os.environ["DGL_DIST_MODE"] = "distributed"
        with ip_config(self._servers.addresses) as path:
            self._client = Client(self, path)
        kvstore.KVCLIENT = self._client
        peers.others = self
        atexit.register(self._leave)

    def _connect(self, timeout: float) -> None:
        addresses = [address.split(":") for address in self._servers.addresses]
        rpc.set_rank(self.rank)
        rpc.set_machine_id(self.part)
        rpc.set_group_id(0)
        rpc.set_num_client(self.size)
        rpc.set_num_server(self.parts)
        rpc.set_num_server_per_machine(1)
        rpc.set_num_machines(self.parts)
        rpc.create_sender(QUEUE_BYTES)
        rpc.create_receiver(QUEUE_BYTES)
        for part, (address, port) in enumerate(addresses):
            rpc.connect_receiver(address, port, part)
        if not rpc.connect_receiver_finalize(1):
            raise ConnectionError("a server refused the connection")
        address, port = self._own.split(":")
        accept = Thread(target=rpc.wait_for_senders, args=(address, port, self.parts), daemon=True)
        accept.start()
        while not is_listening(address, int(port)):
            time.sleep(0.01)
        for part in range(self.parts):
            rpc.send_request(part, Call("hello", _HELLO, self.rank, self._own, timeout, b""))
        accept.join()
        waiting = set(range(self.parts))
        while waiting:
            reply = rpc.recv_response(0)
            if isinstance(reply, Reply) and reply.number == _HELLO:
                waiting.discard(reply.part)

    def set_timeout(self, seconds: float) -> None:
        super().set_timeout(seconds)
        self._peers.timeout = seconds

    def rows(self, key: str) -> Tensor:
        mapped: Tensor = self._client.data_store[key]
        return mapped

    def map(self, key: str, ranges: Ranges, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._client.map(key, ranges, shape, dtype)
        self.together("mapped", (self.name,), f"mapping of {key}")

    def drop(self, key: str) -> None:
        self._client.forget(key)
        if not self._peers.has_failed and not self._connections.lost():
            content = pickle.dumps((key,))
            for part in range(self.parts):
                rpc.send_request(part, Call("drop", next(self._numbers), self.rank, key, self.timeout, content))

    def check_alive(self, about: str) -> None:
        self._peers.check()
        if who := self.gone():
            raise self._peers.fail(who, about)

    def gone(self) -> str:
        """Say which servers have ended, or whom they said to be lost before."""
        ended = self._connections.lost()
        if not ended:
            return ""
        said = self._notice()
        self._connections.silence()
        return said or f"{self._started(self._servers.addresses.index(address) for address in ended)} is gone"

    def silent(self) -> str:
        """Say which servers are gone, do not answer now, or whom they say to be lost."""
        if who := self.gone():
            return who
        number = next(self._numbers)
        for part in range(self.parts):
            rpc.send_request(part, Call("answer", number, self.rank, "a look", self.timeout, pickle.dumps(())))
        waiting, deadline = set(range(self.parts)), time.monotonic() + _GRACE
        while waiting and time.monotonic() < deadline:
            reply = self._receive(_LOOK_SECONDS)
            if reply is not None and reply.number == 0:
                return reply.text
            if reply is not None and reply.number == number:
                waiting.discard(reply.part)
        return f"{self._started(waiting)} is silent" if waiting else ""

    def _started(self, parts: Iterable[int]) -> str:
        return f"the DGL server that {listed([self._servers.starters[part] for part in sorted(parts)])} started"

    def _exchange(
        self, calls: Mapping[int, Call], about: str, meanwhile: Callable[[], None] | None
    ) -> dict[int, Reply]:
        for part, call in calls.items():
            rpc.send_request(part, call)
        if meanwhile is not None:
            meanwhile()
        number = next(iter(calls.values())).number
        deadline = time.monotonic() + self.timeout + _GRACE
        replies: dict[int, Reply] = {}
        while len(replies) < len(calls):
            reply = self._receive(_LOOK_SECONDS)
            if reply is None:
                self.check_alive(about)
                with self._peers.noticing(about):
                    self._peers.look()
                if time.monotonic() > deadline:
                    who = self._started(calls.keys() - replies.keys())
                    raise self._lost(f"{who} is silent for {self.timeout:g} s", about)
            elif reply.number == 0:
                raise self._lost(reply.text, about)
            elif reply.number == number:
                replies[reply.part] = reply
        return replies

    def _receive(self, seconds: float) -> Reply | None:
        with suppress(BadSignatureError, CodeRefusedError):
            reply = rpc.recv_response(int(seconds * 1000))
            return reply if isinstance(reply, Reply) else None
        return None

    def _notice(self) -> str:
        """Return what a server that has ended said before: it may have ended because of somebody else."""
        deadline = time.monotonic() + _NOTICE_SECONDS
        while time.monotonic() < deadline:
            reply = self._receive(_NOTICE_SECONDS / 10)
            if reply is not None and reply.number == 0:
                return reply.text
        return ""

    def _lost(self, what: str, about: str) -> PeerLostError:
        self._connections.silence()
        return self._peers.fail(what, about)

    def _leave(self) -> None:
        """At the end of the process, tell the servers; they end with their last rank."""
        with suppress(PeerLostError):
            self.timeout = min(self.timeout, _GRACE)
            self.ask("leave", (), "the end of the process", dict.fromkeys(range(self.parts), ()))
            return
        self._servers.stop(_GRACE)  # it tells the other ranks before it ends
