"""The ranks of a training job: how they find each other, and what they do together."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distgnn.errors import ConfigError
from distgnn.nn.sync_batch_norm import convert_sync_batch_norm
from distgnn.ranks import rank_and_world_size
from distgnn.train.gradients import GradientSums
from distgnn.train.timeline import Timeline, timed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.nn import Module

    from distgnn.protocols import Backend

DEFAULT_PORT = 29500
_TEXT_BYTES = 1000


class Session:
    """This process's part in a job.

    Args:
        backend: Its ranks are those of the job; a backend that knows of no ranks is a job of one.
        timeline: Notes what the rank does, where it is on; None notes nothing.

    Attributes:
        backend: The backend; with a timeline that is on, one that does the same and notes it.
        timeline: The timeline.
        rank: This process's rank.
        world_size: How many ranks there are.

    Raises:
        ConfigError: A launcher started several processes, and the backend does not join them.
    """

    def __init__(self, backend: Backend, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline(on=False)
        self.backend = timed(backend, self.timeline)
        self.rank, self.world_size = rank_and_world_size(backend)
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.world_size:
            raise ConfigError(
                f"a launcher started {started} processes, and backend {backend.name!r} joins {self.world_size}: start "
                "one process, or choose a backend of several ranks (see: distgnn backends)"
            )

    @property
    def is_main(self) -> bool:
        """Whether this rank shows progress and writes files."""
        return self.rank == 0

    def wrap(self, model: Module, *, sync_batch_norm: bool, find_unused_parameters: bool = False) -> Module:
        """Return ``model`` such that gradients are summed over ranks in backward.

        They are summed, not averaged as DistributedDataParallel does by itself, so that dense parameters and stored
        embeddings see the gradient of the same loss: the sum of the ranks' losses.

        Args:
            model: The same on every rank.
            sync_batch_norm: Normalize over all ranks' rows.
            find_unused_parameters: Some parameters are not part of every loss, as the last layers of node types that
                have no labels; as in DistributedDataParallel.
        """
        if self.world_size == 1:
            return model
        if sync_batch_norm:
            convert_sync_batch_norm(model)
        wrapped = DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)
        # What is left of backward then is to wait for the sums.
        sums = GradientSums(model, before=lambda: self.timeline.turn_to("exchange"))
        wrapped.register_comm_hook(None, lambda _state, bucket: sums.add(bucket))
        return wrapped

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over ranks; collective."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with self._call():
            dist.all_reduce(total)
        return [float(number) for number in total]

    def max(self, number: float) -> float:
        """Return the largest number of all ranks; collective."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number, dtype=torch.float64)
        with self._call():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows ``[K, ...]`` of all ranks behind one another; collective, K may differ."""
        if self.world_size == 1:
            return rows
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        with self._call():
            dist.all_reduce(counts)
        padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        everywhere = [torch.empty_like(padded) for _ in range(self.world_size)]
        with self._call():
            dist.all_gather(everywhere, padded)
        return torch.cat([part[:count] for part, count in zip(everywhere, counts.tolist(), strict=True)])

    def texts(self, text: str) -> list[str]:
        """Return the text of every rank, of each the first 1,000 bytes; collective."""
        content = bytearray(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES))
        found = self.gather(torch.frombuffer(content, dtype=torch.uint8)[None])
        return [bytes(one.tolist()).decode(errors="ignore").rstrip() for one in found]

    def from_main(self, rows: Tensor) -> Tensor:
        """Return what rank 0 gives; the others give a tensor like it, which is overwritten. Collective."""
        if self.world_size > 1:
            with self._call():
                dist.broadcast(rows, 0)
        return rows

    def spent(self) -> dict[str, list[float]] | None:
        """Return what each rank spent its seconds on since :meth:`begin_epoch`, by kind; None without a timeline."""
        return self.timeline.close(self.gather, self.rank) if self.timeline.is_on else None

    def begin_epoch(self) -> None:
        """Let ranks count seconds from the same moment, where they do; collective."""
        if self.timeline.is_on:
            self.sum([0.0])
            self.timeline.begin()

    def _call(self) -> AbstractContextManager[None]:
        return self.timeline.span("exchange", collective=True)


@dataclass(frozen=True)
class Machine:
    """A line of an ip_config file.

    Args:
        address: Its IP address.
        rank: Its rank.
        port: Where rank 0 waits for the others.
    """

    address: str
    rank: int
    port: int


def read_ip_config(path: str | Path) -> list[Machine]:
    """Read a cluster file: ``address rank`` a line, and on the line of rank 0, if wanted, a port.

    Text after ``#`` and blank lines are left out.

    Args:
        path: The file.

    Returns:
        The machines in the order of ranks.

    Raises:
        ConfigError: The file cannot be read, or a line cannot be understood; the text names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the ip_config file {path} cannot be read: {error}") from error
    machines: dict[int, Machine] = {}
    addresses: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        machine = _machine(words, f"{path}, line {number}: {line.strip()!r}")
        if machine.rank in machines:
            raise ConfigError(f"{path}, line {number}: rank {machine.rank} is there already")
        if machine.address in addresses:
            raise ConfigError(
                f"{path}, line {number}: {machine.address} is there already, on line {addresses[machine.address]}; "
                "several processes of one machine are started by torchrun"
            )
        addresses[machine.address] = number
        machines[machine.rank] = machine
    if sorted(machines) != list(range(len(machines))) or not machines:
        raise ConfigError(f"{path}: the ranks must be 0, 1, ... without gaps, not {sorted(machines)}")
    return [machines[rank] for rank in range(len(machines))]


def join_ip_config(path: str | Path, rank: int | None = None) -> None:
    """Set the environment variables by which ranks find each other, from a cluster file.

    Args:
        path: The file; see :func:`read_ip_config`.
        rank: This machine's rank; without it, the line is found by this machine's own addresses.

    Raises:
        ConfigError: The file is wrong, or no line, or several, are this machine's.
    """
    machines = read_ip_config(path)
    own = _own_addresses()
    if rank is None:
        mine = [machine for machine in machines if machine.address in own]
        if len(mine) != 1:
            found = f"{len(mine)} of its lines are" if mine else "none of its lines is"
            raise ConfigError(
                f"{path}: {found} this machine's, whose addresses are {', '.join(sorted(own))}; say which by --rank"
            )
        rank = mine[0].rank
    if not 0 <= rank < len(machines):
        raise ConfigError(f"{path} has ranks 0 to {len(machines) - 1}, not {rank}")
    address = machines[rank].address
    if address not in own:
        raise ConfigError(
            f"{path}: rank {rank} is {address}, which is not this machine's; its own are {', '.join(sorted(own))}"
        )
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(len(machines)),
        LOCAL_RANK="0",
        MASTER_ADDR=machines[0].address,
        MASTER_PORT=str(machines[0].port),
        GLOO_SOCKET_IFNAME=own[address],
    )


def _machine(words: list[str], label: str) -> Machine:
    if len(words) not in {2, 3}:
        raise ConfigError(f"{label}: expected 'address rank' or 'address rank port'")
    try:
        address = ipaddress.IPv4Address(words[0])
    except ValueError:
        raise ConfigError(f"{label}: {words[0]!r} is no IPv4 address") from None
    if not words[1].isdecimal():
        raise ConfigError(f"{label}: the rank {words[1]!r} is no whole number from 0")
    port = words[2] if len(words) == 3 else str(DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{label}: the port {port!r} is no number from 1 to 65535")
    return Machine(str(address), int(words[1]), int(port))


def _own_addresses() -> dict[str, str]:
    """Return this machine's IPv4 addresses, each with the name of its interface."""
    return {
        address.address: interface
        for interface, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }
