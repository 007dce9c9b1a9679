"""The ranks of a job and the exchanges between them: plain tensors, nothing pickled.

Within a host they go through shared memory, between hosts by gloo collectives.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from distgnn.backends.pyg.host import Host
from distgnn.distributed.communicator import LocalCommunicator
from distgnn.distributed.peers import PeerWatch
from distgnn.distributed.process_group import ProcessGroupCommunicator, new_gloo_group
from distgnn.distributed.rendezvous.join import connect_ranks, join_job
from distgnn.distributed.rendezvous.waiting import first_line, within
from distgnn.errors import CallOrderError, PeerLostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from distgnn.distributed.rendezvous.join import Job

_TEXT_BYTES = 1024


class Scratch:
    """Memory kept from call to call: large memory that is new costs as much as filling it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, num_bytes: int) -> Tensor:
        """Return bytes, which are overwritten by whoever takes next."""
        if num_bytes > self._memory.numel():
            with torch.inference_mode(mode=False):  # else none but that mode may write to it
                self._memory = torch.zeros(num_bytes + num_bytes // 8, dtype=torch.uint8)
        return self._memory[:num_bytes]


class Ranks:
    """A process group of the backend's own, or one rank.

    Under torchrun, or any launcher that sets its environment variables, the default process group is initialised if it
    is not yet; it stays when this one is closed.

    Args:
        timeout: Seconds that a rank waits for another.
        share_memory: Whether ranks of one host share memory.
        peers: Says who is lost; by default it is made here.

    Attributes:
        communicator: Their collectives.
        peers: Says who is lost; None for a rank that is alone.
        rank: This rank.
        size: The world size.
        host: The ranks of this host.
        outgoing: Memory for messages, of one call at a time.
        incoming: The same.
        bytes_sent: What this rank has sent to other hosts; with ``share_memory=False``, to other ranks.

    Raises:
        PeerLostError: Not all ranks came, or they cannot connect to each other.
    """

    def __init__(self, timeout: float, *, share_memory: bool = True, peers: PeerWatch | None = None) -> None:
        self._group: dist.ProcessGroup | None = None
        self.bytes_sent = 0
        self.outgoing, self.incoming = Scratch(), Scratch()
        job = join_job(timeout, backend="pyg")
        self.rank, self.size = job.rank, job.size
        self.host = Host(self.rank)
        self.communicator: LocalCommunicator | ProcessGroupCommunicator = LocalCommunicator()
        self.peers = peers
        if job.store is None:
            return
        self.peers = peers = peers or PeerWatch(job.store, self.rank, self.size, timeout)
        with peers.connecting("the start of the job"):
            self._group = connect_ranks(job, timeout, lambda: new_gloo_group(timeout), peers.look)
            self.communicator = ProcessGroupCommunicator(self._group, peers=peers)
            if share_memory:
                self.host = self._new_host(job, timeout, peers)

    def _new_host(self, job: Job, timeout: float, peers: PeerWatch) -> Host:
        try:
            return within(timeout, lambda: Host(self.rank, job, timeout, peers.look), peers.look)
        except (OSError, RuntimeError) as error:
            raise PeerLostError(
                f"rank {self.rank} cannot reach the other ranks of its host through Unix sockets in {timeout:g} s: see "
                f"that they run, or open the backend with share_memory=False ({first_line(error)})"
            ) from error

    def exchange(
        self,
        send: Tensor,
        counts_out: Sequence[int],
        counts_in: Sequence[int],
        call: str,
        *,
        received: Tensor | None = None,
    ) -> Tensor:
        """Send rows to every rank and receive from every rank.

        Args:
            send: ``[sum(counts_out), ...]``, contiguous: the rows for rank 0, then those for rank 1, and so on.
            counts_out: Number of rows for each rank.
            counts_in: Number of rows from each rank.
            call: What it is for, for the text of an error.
            received: ``[sum(counts_in), ...]``, contiguous, where they are written; fresh memory if left out.

        Returns:
            ``[sum(counts_in), ...]`` in the order of ranks.

        Raises:
            PeerLostError: A rank is gone or silent.
        """
        if self.size == 1:
            return send
        with self._noticing(call):
            received = send.new_empty(sum(counts_in), *send.shape[1:]) if received is None else received
            self._exchange(send, list(counts_out), received, list(counts_in))
            return received

    def exchange_on_host(self, outgoing: Sequence[Sequence[Tensor]], call: str) -> list[Sequence[Tensor]]:
        """Do what :meth:`Host.exchange` does.

        Raises:
            PeerLostError: A rank of this host is gone or silent.
        """
        with self._noticing(call):
            return self.host.exchange(outgoing)

    def wait(self, call: str) -> None:
        """Wait until every rank of this host makes the same call.

        Raises:
            PeerLostError: A rank of this host is gone or silent.
        """
        self.check_order(call)
        self.exchange_on_host([()] * len(self.host.members), call)

    def share(self, num_bytes: int, name: str) -> Tensor:
        """Return memory ``[num_bytes]`` of zeros that the ranks of this host have in common.

        Raises:
            StoreError: There is not so much memory.
            PeerLostError: A rank of this host is gone or silent.
        """
        with self._noticing(f"opening of store {name!r}"):
            return self.host.share(num_bytes, name)

    def gather_texts(self, text: str, call: str) -> list[str]:
        """Return the text of every rank, in the order of ranks; at most 1,016 bytes of UTF-8 arrive.

        Raises:
            PeerLostError: A rank is gone or silent.
        """
        content = text.encode()[: _TEXT_BYTES - 8]
        padded = torch.zeros(self.size, _TEXT_BYTES, dtype=torch.uint8)
        padded[:, : len(content)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)]
        received = self.exchange(padded, [1] * self.size, [1] * self.size, call)
        return [bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in received]

    def check_order(self, call: str) -> None:
        """Make sure that every rank makes the same call, when ``DISTGNN_DEBUG=1``.

        Raises:
            CallOrderError: Names the first rank whose call differs, and both calls.
        """
        if self.size == 1 or os.environ.get("DISTGNN_DEBUG") != "1":
            return
        calls = self.gather_texts(call, call)
        for rank, other in enumerate(calls):
            if other != calls[0]:
                raise CallOrderError(
                    f"ranks make different store calls: rank 0 calls {calls[0]}, rank {rank} calls {other}; every rank "
                    "must make the same calls in the same order, with empty ids where it has nothing to ask"
                )

    def close(self) -> None:
        """Leave the group."""
        self.host.close()
        if isinstance(self.communicator, ProcessGroupCommunicator):
            self.communicator.close()
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None

    def _exchange(self, send: Tensor, counts_out: list[int], received: Tensor, counts_in: list[int]) -> None:
        first, end = self.host.members[0], self.host.members[-1] + 1
        parts, places = torch.split(send, counts_out), torch.split(received, counts_in)
        came = self.host.exchange([[as_bytes(part)] for part in parts[first:end]])
        for place, (piece,) in zip(places[first:end], came, strict=True):
            as_bytes(place)[:] = piece
        if end - first < self.size:
            self._exchange_between_hosts(send, counts_out, received, counts_in)

    def _exchange_between_hosts(
        self, send: Tensor, counts_out: list[int], received: Tensor, counts_in: list[int]
    ) -> None:
        first, end = self.host.members[0], self.host.members[-1] + 1
        here = [0] * (end - first)
        far_out, far_in = (counts[:first] + here + counts[end:] for counts in (counts_out, counts_in))
        begin, stop = sum(counts_out[:first]), sum(counts_out[:end])
        to_lower, to_upper = send[:begin], send[stop:]
        begin, stop = sum(counts_in[:first]), sum(counts_in[:end])
        from_lower, from_upper = received[:begin], received[stop:]
        if first == 0 or end == self.size:  # nothing needs to be copied together
            going, coming = (to_upper, from_upper) if first == 0 else (to_lower, from_lower)
        else:
            going, coming = torch.cat([to_lower, to_upper]), torch.cat([from_lower, from_upper])
        work = dist.all_to_all_single(coming, going, far_in, far_out, group=self._group, async_op=True)
        assert self.peers is not None
        self.peers.wait(work)
        if first > 0 and end < self.size:
            from_lower[:], from_upper[:] = coming[:begin], coming[begin:]
        self.bytes_sent += going.numel() * going.element_size()

    def _noticing(self, call: str) -> AbstractContextManager[None]:
        # Closed connections let the ranks of this host notice it at once.
        return nullcontext() if self.peers is None else self.peers.noticing(call, self.host.close)


def as_bytes(rows: Tensor) -> Tensor:
    """View contiguous rows as a vector of bytes."""
    return rows.as_strided((rows.numel(),), (1,)).view(torch.uint8)
