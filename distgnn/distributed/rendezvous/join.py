"""Rendezvous of the ranks of a job."""

from __future__ import annotations

import itertools
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]  # it is there
from torch.distributed.rendezvous import rendezvous
from torch.torch_version import TorchVersion

from distgnn.distributed.rendezvous.addresses import LOOPBACK, facing, interface_of, is_loopback, resolved
from distgnn.distributed.rendezvous.launcher import launched
from distgnn.distributed.rendezvous.meeting import meet
from distgnn.distributed.rendezvous.waiting import first_line, within
from distgnn.errors import ConfigError, PeerLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import Store  # type: ignore[attr-defined]  # it is there

    from distgnn.distributed.rendezvous.launcher import Launch

_T = TypeVar("_T")
# torch before 2.8 cannot take a socket that listens where its store runs on libuv, its default.
_THREADS: dict[str, bool] = {} if torch.__version__ >= TorchVersion("2.8") else {"use_libuv": False}
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
