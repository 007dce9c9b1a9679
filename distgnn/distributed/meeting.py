"""How the ranks of a job find each other, and say so when they do not."""

from __future__ import annotations

import atexit
import itertools
import os
import socket
import time
import uuid
from concurrent.futures import Future, wait
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]  # it is there
from torch.distributed.rendezvous import rendezvous
from torch.torch_version import TorchVersion

from distgnn.distributed.addresses import facing, interface_of, is_loopback, resolved
from distgnn.distributed.launcher import launched
from distgnn.distributed.secret import FILE_VARIABLE, VARIABLE, job_secret, sign
from distgnn.errors import PeerLostError, SecretError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.distributed import Store  # type: ignore[attr-defined]  # it is there

    from distgnn.distributed.launcher import Launch

_T = TypeVar("_T")
# torch before 2.8 cannot take a socket that listens where its store runs on libuv, its default.
_THREADS: dict[str, bool] = {} if torch.__version__ >= TorchVersion("2.8") else {"use_libuv": False}
_LOOK_SECONDS = 0.5
_LAST_SECONDS = 2.0  # more than what comes late by itself takes
_joined = itertools.count(1)  # every rank joins the same jobs in the same order


class Job(NamedTuple):
    """The ranks that were started together.

    Args:
        rank: This process's rank.
        size: The world size.
        store: Where they leave word for each other; None for a rank that is alone. It outlives process groups.
        key: What they have in common; where the job has a secret, nobody else can know it.
    """

    rank: int
    size: int
    store: PrefixStore | None
    key: bytes


def join_job(timeout: float) -> Job:
    """Meet the other ranks, as a launcher's environment variables or the default process group tell; or be alone.

    Raises:
        PeerLostError: Not all ranks came.
        SecretError: The job has another secret than this process.
    """
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        store = distributed_c10d._get_default_store()  # noqa: SLF001  # it has no public name
    else:
        launch = launched()
        rank, size = (0, 1) if launch is None else (launch.rank, launch.world_size)
        if launch is not None:
            store = find_job(launch, timeout)
    if size == 1:
        return Job(0, 1, None, b"")
    return Job(rank, size, *meet(PrefixStore(f"distgnn/{next(_joined)}", store), rank, size, timeout))


def connect_ranks(job: Job, timeout: float, connect: Callable[[], _T], look: Callable[[], None] | None = None) -> _T:
    """Initialise the default process group if it is not yet, and return what ``connect`` then returns.

    Args:
        job: The ranks.
        timeout: Seconds to wait for the others.
        connect: Connects further.
        look: Called again and again meanwhile; what it raises ends the waiting.

    Raises:
        PeerLostError: A rank cannot be reached.
    """

    def connected() -> _T:
        if not dist.is_initialized():
            limit = timedelta(seconds=timeout)
            dist.init_process_group("gloo", store=job.store, rank=job.rank, world_size=job.size, timeout=limit)
        return connect()

    try:
        return within(timeout, connected, look)
    except (RuntimeError, TimeoutError) as error:
        raise PeerLostError(
            f"rank {job.rank} has met the other ranks, {job.size} in all, but cannot connect to each of them in "
            f"{timeout:g} s: if they are on several hosts, name the network interface between them, as in "
            f"GLOO_SOCKET_IFNAME=eth0 ({first_line(error)})"
        ) from error


def find_job(launch: Launch, timeout: float) -> Store:
    """Reach the store that rank 0, or torchrun, keeps for the job.

    Rank 0 waits at ``MASTER_ADDR`` and, where that is possible, at no other address of its machine; torch's own store
    would listen on all.

    Raises:
        PeerLostError: It is not where the environment variables say.
    """
    limit = timedelta(seconds=timeout)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])

    def reach() -> Store:
        if launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            with listening(host, port, local=launch.local) as listener:
                # The client of rank 0 itself goes where it listens, which behind NAT is not MASTER_ADDR.
                own = host if listener.getsockname()[0] in {"0.0.0.0", "::"} else listener.getsockname()[0]  # noqa: S104
                return TCPStore(
                    own, port, None, True, limit, wait_for_workers=False, master_listen_fd=listener.detach(), **_THREADS
                )
        # With a world size of 1 torch waits for nobody; meet() does, and says who is missing.
        store: Store
        store, _, _ = next(rendezvous("env://?world_size=1", timeout=limit))
        return store

    try:
        return within(timeout, reach)
    except (OSError, RuntimeError, TimeoutError) as error:
        raise PeerLostError(
            f"rank {launch.rank} of {launch.world_size} found no job at {host}:{port}, its MASTER_ADDR:MASTER_PORT, in "
            f"{timeout:g} s: start rank 0, or torchrun, on that machine, with a port that is free and open there "
            f"({first_line(error)})"
        ) from error


def listening(host: str, port: int, *, local: bool) -> socket.socket:
    """Return a socket at which rank 0 waits for the others, who know its machine as ``host``.

    It is at that address. Where the name leads to the loopback's here, as Debian has it for a machine's own name, other
    machines know another one: then it is at every address, as torch's is. Behind NAT it is at the address from which
    the others' is reached.

    Args:
        host: An address or a name.
        port: The port.
        local: Whether all ranks run on this host.

    Raises:
        OSError: The name is not known, or the port is taken.
    """
    found = resolved(host)
    if not found:
        raise OSError(f"the name {host!r} is not known here")
    here = [address for address in found if interface_of(address) is not None]
    address = here[0] if here else facing(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if is_loopback(address) and not is_loopback(host) and not local:
        address = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104  # as above
    return socket.create_server((address, port), family=family)


def meet(store: Store, rank: int, size: int, timeout: float) -> tuple[PrefixStore, bytes]:
    """Wait until every rank has come; return a part of the store that is theirs alone, and a key that they share.

    The store of torchrun remembers what earlier attempts of a restarted job wrote there. So rank 0 opens a meeting of a
    new name and lists in it who has come: this process is not on the list of an earlier one.

    The store takes words from anybody. Where the job has a secret, rank 0 lists only who signs the meeting's new name
    with it, and signs the list, on which every rank finds the new name that it made for itself.

    Raises:
        PeerLostError: A rank has not come in time.
        SecretError: The job has another secret than this process.
    """
    secret = job_secret()
    me = uuid.uuid4().hex
    deadline = time.monotonic() + timeout
    came = ["-"]

    def look() -> tuple[PrefixStore, bytes] | None:
        if rank == 0:
            store.set("meeting", me)
        while time.monotonic() < deadline:
            name = store.get("meeting").decode()
            meeting = PrefixStore(name, store)
            meeting.set(str(rank), f"{me} {sign(secret, name, rank, me).hex()}")
            if rank == 0:
                names = " ".join(_came(meeting, name, secret, one) for one in range(size))
                meeting.set("came", f"{names} {sign(secret, name, 'came', names).hex()}")
            names, _, signature = meeting.get("came").decode(errors="replace").rpartition(" ")
            if signature != sign(secret, name, "came", names).hex():
                raise _not_admitted(rank, size, secret, signature == sign(b"", name, "came", names).hex())
            came[:] = names.split()
            if me in came and not {"-", "?"} & set(came):
                return meeting, sign(secret, name, "key")
            time.sleep(0.01)
        return None

    try:
        found = within(timeout + 1, look)
    except (RuntimeError, TimeoutError):
        found = None  # rank 0, or its launcher, is gone with the store
    if found is None:
        missing = [one for one, name in enumerate(came) if name in {"-", "?"}] or [0]
        strangers = [one for one, name in enumerate(came) if name == "?"]
        raise PeerLostError(
            f"{size - len(missing)} of {size} ranks came to the start of the job in {timeout:g} s, without "
            f"{listed(missing)}: start {size} processes, or give them more time with timeout=..."
            + (f"; whoever came as {listed(strangers)} has not the job's secret" if strangers else "")
        )
    return found


def _came(meeting: PrefixStore, name: str, secret: bytes, rank: int) -> str:
    """Return the name that a rank made for itself, ``-`` where it has not come, ``?`` where its signature is wrong."""
    if not meeting.check([str(rank)]):
        return "-"
    said, _, signature = meeting.get(str(rank)).decode(errors="replace").partition(" ")
    return said if signature == sign(secret, name, rank, said).hex() else "?"


def _not_admitted(rank: int, size: int, secret: bytes, open_to_all: bool) -> SecretError:
    return SecretError(
        f"rank {rank} is not admitted to the job of {size} ranks: it has {'a' if secret else 'no'} secret, and rank 0 "
        f"has {'none' if open_to_all else 'another'}; start every rank with the same {VARIABLE} or {FILE_VARIABLE}"
    )


def within(seconds: float, ask: Callable[[], _T], look: Callable[[], None] | None = None) -> _T:
    """Return what ``ask`` returns, from a thread: some calls of torch wait longer than they are told, or without end.

    Args:
        seconds: How long it may take.
        ask: What is asked.
        look: Called again and again meanwhile; what it raises ends the waiting.

    Raises:
        TimeoutError: It has not returned in time; the thread is left behind, and the process waits for it for a moment
            before it ends: a thread that comes back from C++ while Python is taken down would abort it.
    """
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
            answer.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    try:
        while not wait([answer], min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))).done:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer in {seconds:g} s")
            if look is not None:
                look()
    except OSError:
        atexit.register(thread.join, _LAST_SECONDS)
        raise
    return answer.result()


def listed(ranks: Sequence[int]) -> str:
    """Write ``rank 2`` or ``ranks 1, 2``."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or as much of it as fits in a message."""
    return str(error).partition("\n")[0][:200]
