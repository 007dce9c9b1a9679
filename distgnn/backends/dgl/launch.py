"""Start of one server a host, by its first rank.

Ranks tell each other through the job's store whose memory they share: those have one server. It listens on the loopback
address when all ranks reach each other by it, and else on the address that faces the others: that of the interface
``GLOO_SOCKET_IFNAME`` if it is set, as for gloo, or the one from which ``MASTER_ADDR`` is reached.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distgnn.backends.dgl.rows import SHARED_MEMORY, remove_names
from distgnn.backends.dgl.sockets import free_port, is_listening
from distgnn.distributed.rendezvous.ports import ports_to_try
from distgnn.distributed.rendezvous.waiting import within
from distgnn.errors import PeerLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # it is there

    from distgnn.distributed.rendezvous.join import Job

_REFUSED = "refused: "
_GRACE = 2.0
_POLL_SECONDS = 0.02
_ASKED = {
    "memory": "on which host it is",
    "name": "the job's name",
    "server": "where its DGL server is",
    "listening": "whether its DGL server listens",
}
# Importing takes seconds, in which a server that its starter has left would look at nothing: Linux ends it.
_SERVE = """
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL; the server takes it back once it looks itself
if os.getppid() == int(sys.argv.pop(1)):
    runpy.run_module("distgnn.backends.dgl.server", run_name="__main__")
"""


@dataclass(frozen=True)
class ServerConfig:
    """The configuration of a server at its start.

    Args:
        addresses: ``address:port`` of every server.
        part: Which of them this one is.
        world_size: Number of ranks.
        job: A name that no other job has.
        secret: What messages are signed with, in hexadecimal.
        is_private: Whether strangers cannot know it.
        timeout: Seconds to wait for the ranks at the start.
        threads: For updates.
    """

    addresses: tuple[str, ...]
    part: int
    world_size: int
    job: str
    secret: str
    is_private: bool
    timeout: float
    threads: int

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(asdict(self)) + "\n"


@dataclass(frozen=True)
class Servers:
    """The servers of a job.

    Args:
        name: The job's name.
        secret: What messages are signed with, in hexadecimal.
        addresses: ``address:port`` of each host's server.
        starters: The rank that started each.
        hosts: Which of the hosts each rank is on.
        part: Which of the hosts this one is.
        own: The server that this process has started, if it has.
    """

    name: str
    secret: str
    addresses: tuple[str, ...]
    starters: tuple[int, ...]
    hosts: tuple[int, ...]
    part: int
    own: subprocess.Popen[bytes] | None

    def stop(self, patience: float = 0.0) -> None:
        """End the server that this process has started, if it does not end by itself in ``patience`` seconds."""
        if self.own is not None:
            try:
                self.own.wait(patience)
            except subprocess.TimeoutExpired:
                self.own.kill()
                self.own.wait()
        remove_names(self.name)


def start_servers(job: Job, timeout: float, port: int, look: Callable[[], None]) -> Servers:
    """Start this host's server if this is its first rank, and find those of the others; collective.

    Args:
        job: The ranks.
        timeout: Seconds to wait for the others.
        port: Where each server listens; 0 is any free port, of ``DISTGNN_PORTS`` where that is set.
        look: Called again and again while ranks wait for each other; what it raises ends the waiting.

    Raises:
        PeerLostError: A server cannot be started, or a rank does not answer.
    """
    deadline = time.monotonic() + timeout
    store = job.store
    assert store is not None

    def get(key: str, rank: int) -> str:
        # Who starts a server says at the deadline that it does not listen.
        limit = max(0.1, deadline - time.monotonic()) + _GRACE
        try:
            return within(limit, lambda: _told(store, key, limit), look).decode()
        except TimeoutError as error:
            raise PeerLostError(
                f"rank {rank} has not said {_ASKED[key.partition('/')[0]]} in {timeout:g} s while the DGL servers were "
                "started: see that it runs, or give it more time with timeout=..."
            ) from error

    if job.rank == 0:
        store.set("name", secrets.token_hex(8))
    store.set(f"memory/{job.rank}", _name_of_memory())
    hosts = [get(f"memory/{rank}", rank) for rank in range(job.size)]
    order = list(dict.fromkeys(hosts))
    starters = tuple(hosts.index(host) for host in order)
    part = order.index(hosts[job.rank])
    name, secret = get("name", 0), job.key.hex()
    own = None
    if starters[part] == job.rank:
        address = job.address
        local_ranks = hosts.count(order[part])
        ports = [port] if port else ports_to_try(job.size + 1 + part)
        try:
            store.set(f"server/{part}", f"{address}:{free_port(address, ports)}")
        except OSError as error:
            shown = f"{ports[0] or 'any port'}" if len(ports) == 1 else f"any port of {min(ports)}-{max(ports)}"
            where = f"{address}:{shown}, an address of rank {job.rank}"
            store.set(f"server/{part}", f"{_REFUSED}no server can listen on {where}: {error}")
    addresses = tuple(get(f"server/{number}", starter) for number, starter in enumerate(starters))
    for address in addresses:
        if address.startswith(_REFUSED):
            raise PeerLostError(f"{address.removeprefix(_REFUSED)}; choose another with use('dgl', port=...)")
    if starters[part] == job.rank:
        threads = max(1, (os.cpu_count() or 1) // (local_ranks + 1))
        config = ServerConfig(addresses, part, job.size, name, secret, job.is_private, timeout, threads)
        own = _start(config, deadline)
        ended = own.poll()
        late = f"does not listen after {timeout:g} s: give it more time with timeout=..."
        died = f"ended at once with code {ended}: see what it wrote on that rank's standard error"
        store.set(f"listening/{part}", "yes" if ended is None else late if ended == -signal.SIGKILL else died)
    numbers = tuple(order.index(host) for host in hosts)
    servers = Servers(name, secret, addresses, starters, numbers, part, own)
    try:
        _check_listening(servers, get)
    except (OSError, RuntimeError):
        servers.stop()
        raise
    return servers


def _told(store: PrefixStore, key: str, seconds: float) -> bytes:
    """Return what a rank has written to the store; the store's own wait may be shorter, and would write to stderr."""
    deadline = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing said in {seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return store.get(key)


def _check_listening(servers: Servers, get: Callable[[str, int], str]) -> None:
    for number, rank in enumerate(servers.starters):
        said = get(f"listening/{number}", rank)
        if said != "yes":
            raise PeerLostError(f"the DGL server that rank {rank} started for {servers.addresses[number]} {said}")


def _start(config: ServerConfig, deadline: float) -> subprocess.Popen[bytes]:
    """Start a server and wait until it listens, or has ended."""
    # The job's name is for who looks at processes.
    command = [sys.executable, "-c", _SERVE, str(os.getpid()), config.job]
    # It must find the modules that this process finds, and outlive a Ctrl-C in the terminal until its ranks end.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(config.threads),
    }
    process = subprocess.Popen(  # noqa: S603  # our own
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(config.to_json().encode())
    process.stdin.flush()
    address, port = config.addresses[config.part].split(":")
    while process.poll() is None and not is_listening(address, int(port)):
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
        time.sleep(0.02)
    return process


def _name_of_memory() -> str:
    """Return what processes have in common that share their memory: the kernel's start and the folder of names."""
    folder = SHARED_MEMORY.stat()
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{folder.st_dev}/{folder.st_ino}"
