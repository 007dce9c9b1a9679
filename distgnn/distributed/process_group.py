"""Collectives over a process group of torch, gloo or NCCL."""

from __future__ import annotations

import itertools
import os
import time
import zlib
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, distributed_c10d  # type: ignore[attr-defined]  # it is there

from distgnn.distributed.communicator import check_op, check_source
from distgnn.distributed.peers import PeerWatch
from distgnn.distributed.rendezvous.launcher import launched_size
from distgnn.errors import CallOrderError, StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from distgnn.distributed.communicator import Reduction

_made = itertools.count()  # every rank makes its communicators in the same order
_POLL_SECONDS = 1e-4
_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


def check_met_before(world_size: int, backend: str) -> None:
    """Refuse a backend that was opened alone, in a job whose ranks have met since.

    Args:
        world_size: How many ranks the backend has.
        backend: Its name.

    Raises:
        CallOrderError: Each rank would have tables of its own.
    """
    if world_size == 1 and dist.is_initialized() and dist.get_world_size() > 1:
        raise CallOrderError(
            f"the {backend} backend was opened before torch.distributed.init_process_group, so it has one rank and the "
            f"job {dist.get_world_size()}, each with tables of its own: call distgnn.use({backend!r}) after it"
        )


class ProcessGroupCommunicator:
    """The collectives of a process group.

    Args:
        group: The ranks; by default those of the default process group.
        device: Where the group's tensors must be; by default the CPU, and with NCCL the current GPU.
        timeout: Seconds that a rank waits for another.
        peers: Says who is lost; by default it is made for this communicator.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        device: torch.device | str | None = None,
        timeout: float = 60.0,
        peers: PeerWatch | None = None,
    ) -> None:
        self._group: dist.ProcessGroup | None = dist.group.WORLD if group is None else group
        if self._group is None:
            raise ValueError(
                "there is no default process group: give one, or call torch.distributed.init_process_group first"
            )
        self.rank, self.world_size = self._group.rank(), self._group.size()
        self._streams = dist.get_backend(self._group) == "nccl"
        usual = torch.device("cuda", torch.cuda.current_device()) if self._streams else torch.device("cpu")
        self._device = usual if device is None else torch.device(device)
        if peers is None:
            store = PrefixStore(f"distgnn/peers/{next(_made)}", distributed_c10d._get_default_store())  # noqa: SLF001  # it has no public name
            peers = PeerWatch(store, self.rank, self.world_size, timeout)
        self._peers = peers

    def all_reduce(self, tensor: Tensor, op: Reduction = "sum") -> Tensor:
        """Return the sum or the maximum over ranks."""
        check_op(op)
        options = dist.AllreduceOptions()
        options.reduceOp = _OPS[op]  # type: ignore[assignment]  # torch's own enumeration
        with self._call(f"an all-reduce of {_described(tensor)}") as (group, limit):
            options.timeout = limit
            moved = self._moved(tensor)
            self._wait(group.allreduce([moved], options))
        return moved.to(tensor.device)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the rows of every rank."""
        if not tensor.dim():
            raise ValueError("all_gather takes rows [K, ...], not a tensor without dimensions")
        with self._call(f"an all-gather of {_described(tensor)}") as (group, limit):
            own = _as_bytes(self._moved(tensor))
            kind = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape[1:])}".encode())
            told = torch.tensor([len(tensor), kind, own.numel()], device=self._device)
            found = torch.stack(self._gathered(group, limit, told)).tolist()
            longest = max(length for _, _, length in found)
            padded = torch.zeros(longest, dtype=torch.uint8, device=self._device)
            padded[: own.numel()] = own
            everyone = self._gathered(group, limit, padded) if longest else [padded] * self.world_size
        for rank, (_, other, _) in enumerate(found):
            if other != found[0][1]:
                raise CallOrderError(
                    f"ranks 0 and {rank} gather rows of different shapes or types, this one {_described(tensor)}: all "
                    "but the number of rows must be the same, and every rank must make the same calls"
                )
        return [
            part[:length].clone().view(tensor.dtype).view(count, *tensor.shape[1:]).to(tensor.device)
            for part, (count, _, length) in zip(everyone, found, strict=True)
        ]

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return what one rank gives."""
        check_source(source, self.world_size)
        options = dist.BroadcastOptions()
        options.rootRank = source
        with self._call(f"a broadcast of {_described(tensor)} from rank {source}") as (group, limit):
            options.timeout = limit
            moved = self._moved(tensor)
            if moved.numel():
                self._wait(group.broadcast([_as_bytes(moved)], options))
        return moved.to(tensor.device)

    def close(self) -> None:
        """Leave the group alone from now on; whoever has made it ends it."""
        self._group = None

    @contextmanager
    def _call(self, about: str) -> Iterator[tuple[dist.ProcessGroup, timedelta]]:
        if self._group is None:
            raise StoreClosedError(f"{about} over ranks whose backend is closed; open it anew")
        with self._peers.noticing(about):
            yield self._group, timedelta(seconds=self._peers.timeout)

    def _moved(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy where the group's tensors must be."""
        return tensor.detach().to(self._device, copy=True).contiguous()

    def _gathered(self, group: dist.ProcessGroup, limit: timedelta, tensor: Tensor) -> list[Tensor]:
        options = distributed_c10d.AllgatherOptions()  # type: ignore[attr-defined]  # it is there
        options.timeout = limit
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        self._wait(group.allgather([found], [tensor], options))
        return found

    def _wait(self, work: dist.Work) -> None:
        if self._streams:
            # A wait with a limit would abort NCCL's communicator when it is over.
            while not work.is_completed():
                time.sleep(_POLL_SECONDS)
            work.wait()
        else:
            self._peers.wait(work)


def started() -> tuple[int, bool]:
    """Return how many processes were started together, and whether torch.distributed has joined them already."""
    joined = dist.is_initialized()
    return dist.get_world_size() if joined else launched_size(), joined


def new_gloo_group(timeout: float) -> dist.ProcessGroup:
    """Return a gloo group of all ranks; collective.

    gloo's thread for sockets asks for a lock in a loop. When it interrupts the thread that holds it, on a machine of
    few cores, both wait for the end of its time slice, some milliseconds. So its threads do not interrupt others.

    Args:
        timeout: Seconds that a rank waits for another.
    """
    usual = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER
    if usual:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
    finally:
        if usual:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return group


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)
