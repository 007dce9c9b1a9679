"""The ranks of a job and the exchanges between them: gloo collectives of plain tensors, nothing pickled."""

from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import Future, wait
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, distributed_c10d  # type: ignore[attr-defined]  # it is there

from distgnn.errors import CallOrderError, PeerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_T = TypeVar("_T")
_TEXT_BYTES = 1024
_GRACE = 2.0  # seconds in which ranks that noticed a loss say that they are alive
_CHECKPOINT = "the job cannot go on: start it again from its last checkpoint"
_opened = itertools.count(1)  # every rank opens the same groups in the same order


class Ranks:
    """A process group of the backend's own, never that of DistributedDataParallel; or one rank alone.

    Under torchrun, or any launcher that sets its environment variables, the default process group is initialised if it
    is not yet; it stays when this one is closed.

    Args:
        timeout: Seconds that a rank waits for another.

    Attributes:
        rank: This rank.
        size: The world size.

    Raises:
        PeerLostError: Not all ranks came, or they cannot connect to each other.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.size = 0, int(os.environ.get("WORLD_SIZE", "1"))
        self._timeout = timeout
        self._group: dist.ProcessGroup | None = None
        self._failure = ""
        if dist.is_initialized():
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if self.size == 1:
            return
        # The store of the rendezvous outlives the group; it has no public name.
        store = distributed_c10d._get_default_store() if dist.is_initialized() else self._rendezvous()  # noqa: SLF001
        self._store = PrefixStore(f"distgnn/{next(_opened)}", store)
        self._meet()
        limit = timedelta(seconds=timeout)
        try:
            if not dist.is_initialized():
                dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=limit)
            self._group = dist.new_group(backend="gloo", timeout=limit)
        except RuntimeError as error:
            advice = "if they are on several hosts, name the network between them, as in GLOO_SOCKET_IFNAME=eth0"
            raise self._lost("connecting the ranks to each other", error, advice=advice) from error

    def exchange(self, send: Tensor, counts_out: Sequence[int], counts_in: Sequence[int], call: str) -> Tensor:
        """Send rows to every rank and receive from every rank.

        Args:
            send: ``[sum(counts_out), ...]``: the rows for rank 0, then those for rank 1, and so on.
            counts_out: Number of rows for each rank.
            counts_in: Number of rows from each rank.
            call: What it is for, for the text of an error.

        Returns:
            ``[sum(counts_in), ...]`` in the order of ranks.

        Raises:
            PeerLostError: A rank is gone or silent.
        """
        if self.size == 1:
            return send
        if self._failure:
            raise PeerLostError(self._failure)
        received = send.new_empty(sum(counts_in), *send.shape[1:])
        begin = time.monotonic()
        try:
            dist.all_to_all_single(received, send, list(counts_in), list(counts_out), group=self._group)
        except RuntimeError as error:
            raise self._lost(call, error, time.monotonic() - begin) from error
        return received

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
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None

    def _rendezvous(self) -> dist.Store:
        """Reach the store that rank 0, or torchrun, keeps for the job."""
        limit = timedelta(seconds=self._timeout)
        try:
            # With a world size of 1 torch waits for nobody; _meet() does, and says who is missing.
            store, self.rank, _ = _within(
                self._timeout, lambda: next(dist.rendezvous("env://?world_size=1", timeout=limit))
            )
        except (RuntimeError, TimeoutError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise PeerLostError(
                f"rank {os.environ['RANK']} of {self.size} found no job at MASTER_ADDR:MASTER_PORT, which is {address}, "
                f"in {self._timeout:g} s: start rank 0, or torchrun, on that machine, with a port that is free there and "
                f"that no firewall closes ({_first_line(error)})"
            ) from error
        return store

    def _meet(self) -> None:
        missing = self._missing("start", self._timeout)
        if missing:
            raise PeerLostError(
                f"{self.size - len(missing)} of {self.size} ranks came to the start of the job in {self._timeout:g} s, "
                f"without {_ranks(missing)}: start {self.size} processes, or give them more time with timeout=..."
            )

    def _lost(
        self, call: str, error: RuntimeError, waited: float = 0.0, *, advice: str = _CHECKPOINT
    ) -> PeerLostError:
        """Find out which ranks are gone: those that do not say in time that they noticed the failure too."""
        missing = self._missing("failure", _GRACE)
        # Ranks that wait as long cut each other off, so that only the first reads of a timeout in its error.
        what = f"silent for {self._timeout:g} s" if waited > 0.9 * self._timeout else "gone"
        if not missing:
            who = "no rank is gone, but a connection broke or a rank was silent for too long"
        elif len(missing) == 1:
            who = f"{_ranks(missing)} is {what}"
        else:
            who = f"one or more of {_ranks(missing)} are {what}"
        self._failure = f"{who}, noticed by rank {self.rank} in {call}; {advice} ({_first_line(error)})"
        return PeerLostError(self._failure)

    def _missing(self, event: str, seconds: float) -> list[int]:
        """Tell the other ranks that this one has come to ``event``, and which of them do not in ``seconds``."""
        missing = [rank for rank in range(self.size) if rank != self.rank]
        deadline = time.monotonic() + seconds

        def look() -> None:
            self._store.set(f"{event}/{self.rank}", "here")
            while missing and time.monotonic() < deadline:
                if self._store.check([f"{event}/{missing[0]}"]):
                    del missing[0]
                else:
                    missing.append(missing.pop(0))
                    time.sleep(0.02)

        try:
            _within(seconds + 1, look)
        except (RuntimeError, TimeoutError):
            # The store does not answer, and rank 0, or its launcher, keeps it; but it may have ended after it answered.
            return [0] if 0 in missing else sorted(missing)
        return sorted(missing)


def _within(seconds: float, ask: Callable[[], _T]) -> _T:
    """Return what ``ask`` returns, in a thread: some calls of torch wait without end for a host that is cut off.

    Raises:
        TimeoutError: It has not returned in time; the thread is left behind.
    """
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    wait([answer], seconds)
    if not answer.done():
        raise TimeoutError(f"no answer in {seconds:g} s")
    return answer.result()


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
