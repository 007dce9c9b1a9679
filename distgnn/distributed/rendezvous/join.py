"""Rendezvous of the ranks of a job."""

from __future__ import annotations

import atexit
import itertools
import json
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

from distgnn._version import __version__
from distgnn.distributed.agreement import check_agreement
from distgnn.distributed.rendezvous.addresses import (
    LOOPBACK,
    facing,
    interface_of,
    is_loopback,
    name_of_host,
    outward_address,
    resolved,
)
from distgnn.distributed.rendezvous.authentication import FILE_VARIABLE, VARIABLE, is_signed, job_secret, sign
from distgnn.distributed.rendezvous.launcher import launched
from distgnn.distributed.rendezvous.store_guard import is_offered, shared_secret
from distgnn.errors import ConfigError, PeerLostError, SecretError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.distributed import Store  # type: ignore[attr-defined]  # it is there

    from distgnn.distributed.rendezvous.launcher import Launch

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
        key: What they have in common; where it is private, nobody else can know it.
        is_private: Whether they have a secret, their own or one that they made themselves.
        hosts: What ranks of one host have in common, of each; see
            :func:`~distgnn.distributed.rendezvous.addresses.name_of_host`.
        addresses: Where each says that others reach it.
    """

    rank: int
    size: int
    store: PrefixStore | None
    key: bytes
    is_private: bool = False
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def is_on_one_host(self) -> bool:
        """Whether all ranks reach each other by the loopback address."""
        return len(set(self.hosts)) == 1

    @property
    def address(self) -> str:
        """This rank's address for the others."""
        if self.is_on_one_host or not self.addresses:
            return LOOPBACK
        own = self.addresses[self.rank]
        others = [one for one in self.addresses if not is_loopback(one)]
        # The host of MASTER_ADDR may know that name as a loopback address.
        return facing(others[0]) if is_loopback(own) and others else own


def join_job(timeout: float, **facts: str) -> Job:
    """Meet the other ranks, as a launcher's environment variables or the default process group tell; or be alone.

    ``GLOO_SOCKET_IFNAME`` is set to the interface between the ranks where it is not set yet: gloo would listen at
    whatever address the host's name leads to.

    Args:
        timeout: Seconds to wait for the others.
        **facts: What must be the same on every rank, beside versions and ``DISTGNN_DEBUG``.

    Raises:
        ConfigError: Ranks differ; the text names the first difference, its values and ranks.
        PeerLostError: Not all ranks came.
        SecretError: The job has another secret than this process.
    """
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        local = _is_known_to_be_local(size)
        store = distributed_c10d._get_default_store()  # noqa: SLF001  # it has no public name
    else:
        launch = launched()
        rank, size, local = (0, 1, True) if launch is None else (launch.rank, launch.world_size, launch.local)
        if launch is not None:
            store = find_job(launch, timeout)
    if size == 1:
        return Job(0, 1, None, b"")
    met = meet(PrefixStore(f"distgnn/{next(_joined)}", store), rank, size, timeout, facts, local=local)
    hosts, addresses = zip(*((said.host, said.address) for said in met.ranks), strict=True)
    job = Job(rank, size, met.store, met.key, met.is_private, hosts, addresses)
    interface = interface_of(job.address)
    if interface is not None and not os.environ.get("GLOO_SOCKET_IFNAME"):
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    return job


def _is_known_to_be_local(size: int) -> bool:
    """Tell whether a launcher says that the job which ``init_process_group`` joined is on this host."""
    try:
        launch = launched()
    except ConfigError:
        return False  # that call was told otherwise how to join
    return launch is not None and launch.world_size == size and launch.local


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
            "GLOO_SOCKET_IFNAME=eth0, and let their firewalls pass all TCP ports between them, for gloo takes any "
            f"({first_line(error)})"
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
            f"{timeout:g} s: start rank 0, or torchrun, on that machine, once, with a port that is free and open there "
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


class Said(NamedTuple):
    """A rank's facts about itself at the rendezvous.

    Args:
        name: A name that it made up.
        host: The name of its host.
        address: Where others reach it.
        facts: What must be the same on every rank.
    """

    name: str
    host: str
    address: str
    facts: dict[str, str]


class Meeting(NamedTuple):
    """The ranks that came.

    Args:
        store: A part of the job's store that is theirs alone.
        key: A key that they share.
        is_private: Whether nobody else can know it.
        ranks: What each said.
    """

    store: PrefixStore
    key: bytes
    is_private: bool
    ranks: list[Said]


def meet(
    store: Store, rank: int, size: int, timeout: float, facts: Mapping[str, str] | None = None, *, local: bool = False
) -> Meeting:
    """Wait until every rank has come.

    The store of torchrun remembers what earlier attempts of a restarted job wrote there. So rank 0 opens a meeting of a
    new name and lists in it who has come: this process is not on the list of an earlier one.

    The store takes words from anybody. Where the job has a secret, rank 0 lists only who signs the meeting's new name
    with it, and signs the list, on which every rank finds the new name that it made for itself. Where all ranks are
    known to be on one host and have none, rank 0 makes one, see :mod:`distgnn.distributed.rendezvous.store_guard`.

    Args:
        store: Where they leave word for each other.
        rank: This process's rank.
        size: How many there are.
        timeout: Seconds to wait.
        facts: What must be the same on every rank, beside versions and ``DISTGNN_DEBUG``.
        local: Whether all of them are known to run on this host.

    Raises:
        ConfigError: Ranks differ, or one was started twice.
        PeerLostError: A rank has not come in time.
        SecretError: The job has another secret than this process.
    """
    given = job_secret()
    me = uuid.uuid4().hex
    own = Said(me, name_of_host(), outward_address(os.environ.get("MASTER_ADDR", LOOPBACK)), _facts(size, facts or {}))
    text = json.dumps(own)
    deadline = time.monotonic() + timeout
    came: list[Said | str] = ["-"]

    def look(secret: bytes) -> Meeting | None:
        if rank == 0:
            store.set("meeting", me)
        while time.monotonic() < deadline:
            name = store.get("meeting").decode()
            meeting = PrefixStore(name, store)
            meeting.set(str(rank), f"{sign(secret, name, rank, text).hex()} {text}")
            if rank == 0:
                listed_now = json.dumps([_came(meeting, name, secret, one) for one in range(size)])
                meeting.set("came", f"{sign(secret, name, 'came', listed_now).hex()} {listed_now}")
            signature, _, everybody = meeting.get("came").decode(errors="replace").partition(" ")
            if not is_signed(signature, secret, name, "came", everybody):
                theirs = "one that it made for its own host" if is_offered(store) else "another"
                is_open = is_signed(signature, b"", name, "came", everybody)
                raise _not_admitted(rank, size, given, "none" if is_open else theirs)
            came[:] = [Said(*one) if isinstance(one, list) else one for one in json.loads(everybody)]
            _check_agreement(meeting, rank, own, came)
            if _is_there(own, rank, came) and not {"-", "?"} & {one for one in came if isinstance(one, str)}:
                ranks = [one for one in came if isinstance(one, Said)]
                return Meeting(meeting, sign(secret, name, "key"), bool(secret), ranks)
            time.sleep(0.01)
        return None

    def join() -> Meeting | None:
        with shared_secret(store, rank, given, deadline, local=local) as secret:
            return look(secret)

    failure: Exception | None = None
    try:
        found = within(timeout + 1, join)
    except (RuntimeError, TimeoutError) as error:
        found, failure = None, error  # rank 0, or its launcher, is gone with the store
    if found is None:
        raise _not_met(rank, size, timeout, came, failure) from failure
    return found


def _not_met(
    rank: int, size: int, timeout: float, came: Sequence[Said | str], failure: Exception | None
) -> PeerLostError:
    """Say who has not come, or who was there and is no more.

    Args:
        rank: This process's rank.
        size: How many there are.
        timeout: The seconds that it waited.
        came: What rank 0 has listed last.
        failure: Why its store does not answer, if it does not.
    """
    # Where rank 0 is gone, it lists nobody more: this rank is there, and it is not.
    missing = [one for one, said in enumerate(came) if isinstance(said, str) and one != rank]
    if failure is not None and came and not missing:
        return store_lost(rank, size, failure)
    missing = missing or [0]
    strangers = [one for one in missing if came[one] == "?"]
    return PeerLostError(
        f"{size - len(missing)} of {size} ranks came to the start of the job in {timeout:g} s, without "
        f"{listed(missing)}: start {size} processes, or give them more time with timeout=..."
        + (f"; whoever came as {listed(strangers)} has not the job's secret" if strangers else "")
    )


def store_lost(rank: int, size: int, failure: Exception) -> PeerLostError:
    """Say that the job's store does not answer: whoever keeps it is lost.

    Args:
        rank: This process's rank.
        size: The world size.
        failure: Why it does not answer.
    """
    keeper = "the launcher" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
    return PeerLostError(
        f"{keeper}, which keeps the job's store, is gone or silent, noticed by rank {rank} in the start of the job: "
        f"start all {size} processes again ({first_line(failure)})"
    )


def _facts(size: int, facts: Mapping[str, str]) -> dict[str, str]:
    return {
        "WORLD_SIZE": str(size),
        **facts,
        "distgnn's version": __version__,
        "torch's version": torch.__version__.partition("+")[0],
        "DISTGNN_DEBUG": os.environ.get("DISTGNN_DEBUG") or "not set",
    }


def _came(meeting: PrefixStore, name: str, secret: bytes, rank: int) -> Said | str:
    """Return what a rank says, ``-`` where it has not come, ``?`` where its signature is wrong."""
    if not meeting.check([str(rank)]):
        return "-"
    signature, _, text = meeting.get(str(rank)).decode(errors="replace").partition(" ")
    if not is_signed(signature, secret, name, rank, text):
        return "?"
    try:
        return Said(*json.loads(text))
    except (TypeError, ValueError):
        return "?"  # of another version, or a stranger where there is no secret


def _check_agreement(meeting: PrefixStore, rank: int, own: Said, came: Sequence[Said | str]) -> None:
    """Compare what those say who have come; who finds a difference lets the others find it too."""
    said = {number: one.facts for number, one in enumerate(came) if isinstance(one, Said)}
    try:
        check_agreement({**said, rank: own.facts})
    except ConfigError:
        meeting.set(f"read/{rank}", "yes")
        deadline = time.monotonic() + _LAST_SECONDS
        while rank == 0 and time.monotonic() < deadline and not meeting.check([f"read/{one}" for one in said if one]):
            time.sleep(0.01)
        raise


def _is_there(own: Said, rank: int, came: Sequence[Said | str]) -> bool:
    """Tell whether this process is on the list; the store of torchrun may show that of an earlier attempt."""
    there = came[rank] if rank < len(came) else "-"
    if isinstance(there, str) or there.name == own.name:
        return not isinstance(there, str)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and "-" not in came:
        raise ConfigError(
            f"rank {rank} was started twice: another process came as rank {rank} before this one; give every process a "
            "RANK of its own"
        )
    return False


def _not_admitted(rank: int, size: int, secret: bytes, theirs: str) -> SecretError:
    return SecretError(
        f"rank {rank} is not admitted to the job of {size} ranks: it has {'a' if secret else 'no'} secret, and rank 0 "
        f"has {theirs}; start every rank with the same {VARIABLE} or {FILE_VARIABLE}"
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
