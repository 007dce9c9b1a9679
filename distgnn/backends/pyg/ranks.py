"""The ranks of a job and the exchanges between them: gloo collectives of plain tensors, nothing pickled."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, distributed_c10d  # type: ignore[attr-defined]  # it is there

from distgnn.errors import CallOrderError, PeerLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_TEXT_BYTES = 1024
_GRACE = 2.0  # seconds in which ranks that noticed a loss say that they are alive


class Ranks:
    """A process group of the backend's own, never that of DistributedDataParallel; or one rank alone.

    Under torchrun, or any launcher that sets its environment variables, the default process group is initialised if it
    is not yet; it stays when this one is closed.

    Args:
        timeout: Seconds that a rank waits for another.

    Attributes:
        rank: This rank.
        size: The world size.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.size = 0, 1
        self._timeout = timeout
        self._group: dist.ProcessGroup | None = None
        self._failures = 0
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        if dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

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
        received = send.new_empty(sum(counts_in), *send.shape[1:])
        try:
            dist.all_to_all_single(received, send, list(counts_in), list(counts_out), group=self._group)
        except RuntimeError as error:
            raise self._lost(call, error) from error
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

    def _lost(self, call: str, error: RuntimeError) -> PeerLostError:
        """Find out which ranks are gone: those that do not say in time that they noticed the failure too."""
        silent = "Timed out" in str(error)
        what = f"silent for {self._timeout:g} s" if silent else "gone"
        lost = self._missing()
        who = (
            f"rank {lost[0]} is"
            if len(lost) == 1
            else f"ranks {', '.join(map(str, lost))} are"
            if lost
            else "a rank is"
        )
        return PeerLostError(
            f"{who} {what}, noticed by rank {self.rank} in {call}; the job cannot go on: start it again from its last "
            f"checkpoint ({str(error).splitlines()[0][:200]})"
        )

    def _missing(self) -> list[int]:
        self._failures += 1
        try:
            # The store of the rendezvous outlives the group; it has no public name.
            store = PrefixStore(f"distgnn/failure/{self._failures}", distributed_c10d._get_default_store())  # noqa: SLF001
            store.set(str(self.rank), "alive")
            deadline = time.monotonic() + _GRACE
            missing = [rank for rank in range(self.size) if rank != self.rank]
            while missing and time.monotonic() < deadline:
                missing = [rank for rank in missing if not store.check([str(rank)])]
                time.sleep(0.02)
        except (RuntimeError, ValueError):
            return [0]  # the store of the rendezvous is gone, and rank 0, or its launcher, keeps it
        return missing
