"""How the ranks of a job find each other, and say so when they do not."""

from __future__ import annotations

import itertools
import os
import socket
import time
import uuid
from concurrent.futures import Future, wait
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]  # it is there
from torch.distributed.rendezvous import rendezvous

from distgnn.errors import PeerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.distributed import Store  # type: ignore[attr-defined]  # it is there

_T = TypeVar("_T")
_joined = itertools.count(1)  # every rank joins the same jobs in the same order


class Job(NamedTuple):
    """The ranks that were started together.

    Args:
        rank: This process's rank.
        size: The world size.
        store: Where they leave word for each other; None for a rank that is alone. It outlives process groups.
    """

    rank: int
    size: int
    store: PrefixStore | None


def join_job(timeout: float) -> Job:
    """Meet the other ranks, as a launcher's environment variables or the default process group tell; or be alone.

    Raises:
        PeerLostError: Not all ranks came.
    """
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        store = distributed_c10d._get_default_store()  # noqa: SLF001  # it has no public name
    else:
        rank, size = 0, int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1:
            store, rank = find_job(size, timeout)
    if size == 1:
        return Job(0, 1, None)
    return Job(rank, size, meet(PrefixStore(f"distgnn/{next(_joined)}", store), rank, size, timeout))


def connect_ranks(job: Job, timeout: float, connect: Callable[[], _T]) -> _T:
    """Initialise the default process group if it is not yet, and return what ``connect`` then returns.

    Raises:
        PeerLostError: A rank cannot be reached.
    """

    def connected() -> _T:
        if not dist.is_initialized():
            limit = timedelta(seconds=timeout)
            dist.init_process_group("gloo", store=job.store, rank=job.rank, world_size=job.size, timeout=limit)
        return connect()

    try:
        return within(timeout, connected)
    except (RuntimeError, TimeoutError) as error:
        raise PeerLostError(
            f"rank {job.rank} has met the other ranks, {job.size} in all, but cannot connect to each of them in "
            f"{timeout:g} s: if they are on several hosts, name the network interface between them, as in "
            f"GLOO_SOCKET_IFNAME=eth0 ({first_line(error)})"
        ) from error


def find_job(size: int, timeout: float) -> tuple[Store, int]:
    """Reach the store that rank 0, or torchrun, keeps for the job; return it and this process's rank.

    Rank 0 waits at ``MASTER_ADDR`` and at no other address of its machine; torch's own store would listen on all.

    Raises:
        PeerLostError: It is not where the environment variables say.
    """
    limit = timedelta(seconds=timeout)

    def reach() -> tuple[Store, int]:
        if os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            listener = socket.create_server((host, port)).detach()
            return TCPStore(host, port, None, True, limit, wait_for_workers=False, master_listen_fd=listener), 0
        # With a world size of 1 torch waits for nobody; meet() does, and says who is missing.
        store, rank, _ = next(rendezvous("env://?world_size=1", timeout=limit))
        return store, rank

    try:
        return within(timeout, reach)
    except (OSError, RuntimeError, TimeoutError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise PeerLostError(
            f"rank {os.environ['RANK']} of {size} found no job at {address}, its MASTER_ADDR:MASTER_PORT, in "
            f"{timeout:g} s: start rank 0, or torchrun, on that machine, with a port that is free and open there "
            f"({first_line(error)})"
        ) from error


def meet(store: Store, rank: int, size: int, timeout: float) -> PrefixStore:
    """Wait until every rank has come; return a part of the store that is theirs alone.

    The store of torchrun remembers what earlier attempts of a restarted job wrote there. So rank 0 opens a meeting of a
    new name and lists in it who has come: this process is not on the list of an earlier one.

    Raises:
        PeerLostError: A rank has not come in time.
    """
    me = uuid.uuid4().hex
    deadline = time.monotonic() + timeout
    missing = [0]

    def look() -> PrefixStore | None:
        if rank == 0:
            store.set("meeting", me)
        while time.monotonic() < deadline:
            meeting = PrefixStore(store.get("meeting").decode(), store)
            meeting.set(str(rank), me)
            if rank == 0:
                seen = [meeting.get(str(one)).decode() if meeting.check([str(one)]) else "-" for one in range(size)]
                meeting.set("came", " ".join(seen))
            came = meeting.get("came").decode().split()
            if me in came and "-" not in came:
                return meeting
            missing[:] = [one for one, name in enumerate(came) if name == "-"] or [0]
            time.sleep(0.01)
        return None

    try:
        meeting = within(timeout + 1, look)
    except (RuntimeError, TimeoutError):
        meeting = None  # rank 0, or its launcher, is gone with the store
    if meeting is None:
        raise PeerLostError(
            f"{size - len(missing)} of {size} ranks came to the start of the job in {timeout:g} s, without "
            f"{listed(missing)}: start {size} processes, or give them more time with timeout=..."
        )
    return meeting


def within(seconds: float, ask: Callable[[], _T]) -> _T:
    """Return what ``ask`` returns, from a thread: some calls of torch wait longer than they are told, or without end.

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


def listed(ranks: Sequence[int]) -> str:
    """Write ``rank 2`` or ``ranks 1, 2``."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or as much of it as fits in a message."""
    return str(error).partition("\n")[0][:200]
