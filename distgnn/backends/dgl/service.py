"""The operations of a server, in one table.

Some operations need all ranks: each rank's call waits here until the last one has come, then the operation is done once
with the contributions of all in the order of ranks, and everybody is answered. So an update is one request and one
answer a rank, its gradients are summed in an order that does not vary, and an answer means that it is done everywhere.
It is also what orders reads and writes: a rank contributes to a write only after its own earlier reads.

DGL's own way to update rows, a push handler, was measured and left: it runs in the pushing process for rows of its host
and in the server for others, without a lock, so that updates of the same row got lost, and nobody learns when it ran.
"""

from __future__ import annotations

import json
import time
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from distgnn.backends.dgl.rows import Ranges, remove_names
from distgnn.backends.dgl.shards import DGLEmbeddingShard, DGLGraphShard, DGLTensorShard
from distgnn.backends.dgl.wire import CodeRefusedError, Reply, read_code
from distgnn.distributed.rendezvous.waiting import listed
from distgnn.errors import CallOrderError, DistGNNError, NameConflictError, SecretError
from distgnn.storage.specs import EmbeddingSpec, PartitionBook, TensorSpec
from distgnn.storage.toolkit.open_stores import edges_conflict_error
from distgnn.storage.toolkit.row_shard import RowShard
from distgnn.storage.toolkit.rows import put_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from distgnn.backends.dgl.rows import Keeper
    from distgnn.backends.dgl.wire import Call
    from distgnn.storage.capabilities import RuleState
    from distgnn.storage.protocols import UpdateRule
    from distgnn.storage.specs import GraphSpec

    Shard = DGLEmbeddingShard | DGLTensorShard | DGLGraphShard
    Tensors = tuple[Tensor, ...]
    Replies = list[tuple[int, Reply]]


class Service:
    """The stores of one part, and who waits for whom.

    Args:
        keeper: Where rows are kept.
        part: Which part.
        parts: How many parts there are.
        world_size: How many ranks ask.
        read: Reads the arguments of a call.

    Attributes:
        gone: The ranks that ask no more.
    """

    def __init__(
        self, keeper: Keeper, part: int, parts: int, world_size: int, read: Callable[[bytes], Any] = read_code
    ) -> None:
        self._keeper, self._read = keeper, read
        self._part, self._parts = part, parts
        self._world_size = world_size
        self._ranges: dict[str, Ranges] = {}
        self._shards: dict[str, Shard] = {}
        self._dropped: dict[str, set[int]] = {}
        self._waiting: dict[int, Call] = {}
        self._since = 0.0
        self.gone: set[int] = set()
        self._alone: dict[str, Callable[..., Tensors]] = {
            "rows": self._rows,
            "put": self._put,
            "in_edges": self._in_edges,
            "states": self._states,
            "export": self._export,
            "import": self._import,
            "drop": self._drop,
            "leave": self._leave,
            "answer": self._answer,
        }
        self._together: dict[str, Callable[..., None]] = {
            "meet": self._meet,
            "open": self._meet,
            "open_rows": self._open_rows,
            "open_graph": self._open_graph,
            "open_dgl": self._open_dgl,
            "mapped": self._mapped,
            "update": self._update,
            "replace": self._replace,
            "add": self._add,
            "reset_states": self._reset_states,
        }

    def answer(self, call: Call) -> Replies:
        """Do what a rank asks, or keep it until the other ranks ask the same.

        Returns:
            The answers that there are now, and to which rank.
        """
        try:
            if call.operation in self._alone:
                tensors = self._alone[call.operation](call, *self._arguments(call))
                return [(call.rank, Reply(call.number, self._part, tensors=tensors))]
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[call.rank] = call
            if len(self._waiting) < self._world_size:
                return []
        except Exception as error:  # noqa: BLE001  # whatever it is, whoever asked must hear of it
            return [(call.rank, self._refusal(call, error))]
        calls = [self._waiting[rank] for rank in range(self._world_size)]
        self._waiting.clear()
        try:
            self._together[call.operation](calls, *self._agreed(calls))
        except Exception as error:  # noqa: BLE001  # as above
            return [(one.rank, self._refusal(one, error)) for one in calls]
        return [(one.rank, Reply(one.number, self._part)) for one in calls]

    def missing(self) -> str:
        """Tell which rank others wait for in vain: it is gone, or silent for as long as they wait; else nothing."""
        if not self._waiting:
            return ""
        awaited = [rank for rank in range(self._world_size) if rank not in self._waiting]
        gone = [rank for rank in awaited if rank in self.gone]
        timeout = next(iter(self._waiting.values())).timeout
        if gone:
            return lost(gone, "gone")
        return lost(awaited, f"silent for {timeout:g} s") if time.monotonic() - self._since > timeout else ""

    def _arguments(self, call: Call) -> tuple[Any, ...]:
        try:
            arguments: tuple[Any, ...] = self._read(call.content)
        except CodeRefusedError as error:
            raise SecretError(f"the server does not read the arguments of {call.about}: {error}") from error
        except Exception as error:
            raise DistGNNError(
                f"the server cannot read the arguments of {call.about} ({type(error).__name__}: {error}); a rule of "
                "your own must be in a module that can be imported on every host, not in the script that is run"
            ) from error
        return arguments

    def _agreed(self, calls: Sequence[Call]) -> tuple[Any, ...]:
        """Return the arguments that all ranks gave.

        Raises:
            CallOrderError: Ranks make different calls, or with different arguments.
            NameConflictError: Ranks open different stores.
        """
        first = self._arguments(calls[0])
        for call in calls[1:]:
            if (call.operation, call.about) != (calls[0].operation, calls[0].about):
                if call.operation == calls[0].operation == "open":
                    raise NameConflictError(
                        f"ranks open different stores at once: rank 0 asks for {_opened(calls[0])}, rank {call.rank} "
                        f"for {_opened(call)}; every rank must open the same stores in the same order"
                    )
                raise CallOrderError(
                    f"ranks make different store calls: rank 0 calls {calls[0].about}, rank {call.rank} calls "
                    f"{call.about}; every rank must make the same calls in the same order, with empty ids where it has "
                    "nothing to ask"
                )
            if call.content != calls[0].content and self._arguments(call) != first:
                if call.operation == "open":
                    raise edges_conflict_error(first[0])
                raise CallOrderError(
                    f"ranks call {call.about} with different arguments: rank 0 with {first[1:]}, rank {call.rank} with "
                    f"{self._arguments(call)[1:]}; they must be the same on every rank"
                )
        return first

    def _refusal(self, call: Call, error: Exception) -> Reply:
        known = isinstance(error, DistGNNError)
        text = str(error) if known else f"the server failed in {call.about}: {type(error).__name__}: {error}"
        return Reply(call.number, self._part, type(error).__name__ if known else "DistGNNError", text)

    def _new_ranges(self, kind: str, bounds: tuple[int, ...]) -> Ranges:
        return Ranges(kind, PartitionBook(bounds), self._part)

    # Operations of a rank by itself.

    def _rows(self, call: Call, key: str) -> Tensors:
        return (take_rows(self._keeper.rows[key], call.tensors[0] - self._ranges[key].start),)

    def _put(self, call: Call, key: str) -> Tensors:
        ids, values = call.tensors
        put_rows(self._keeper.rows[key], ids - self._ranges[key].start, values)
        return ()

    def _in_edges(self, call: Call, key: str, fanout: int, seed: int) -> Tensors:
        shard = self._shards[key]
        assert isinstance(shard, DGLGraphShard)
        return shard.in_edges(call.tensors[0] - self._ranges[key].start, fanout, seed)

    def _states(self, _call: Call, key: str) -> Tensors:
        """Tell what is kept beside rows, as bytes of JSON."""
        states = json.dumps(self._row_shard(key).rule_states()).encode()
        return (torch.frombuffer(bytearray(states), dtype=torch.uint8),)

    def _export(self, _call: Call, key: str, first: int, last: int, names: Sequence[str]) -> Tensors:
        rows = self._row_shard(key).export_rows(first, last)
        return tuple(rows[name] for name in names)

    def _import(self, call: Call, key: str, first: int, last: int, names: Sequence[str]) -> Tensors:
        """Put back some of the tensors of a range of rows."""
        shard = self._row_shard(key)
        shard.import_rows(first, {**shard.export_rows(first, last), **dict(zip(names, call.tensors, strict=True))})
        return ()

    def _row_shard(self, key: str) -> RowShard:
        shard = self._shards[key]
        assert isinstance(shard, RowShard)
        return shard

    def _drop(self, call: Call, key: str) -> Tensors:
        """Free a store that all ranks have closed; they do not wait for each other here."""
        dropped = self._dropped.setdefault(key, set())
        dropped.add(call.rank)
        if len(dropped) == self._world_size:
            del self._dropped[key]
            if key in self._shards:
                self._shards.pop(key).close()
            elif key in self._ranges:
                self._keeper.free(key)
            self._ranges.pop(key, None)
        return ()

    def _leave(self, call: Call) -> Tensors:
        self.gone.add(call.rank)
        return ()

    def _answer(self, _call: Call) -> Tensors:
        """Nothing: that there is an answer is all."""
        return ()

    # Operations of all ranks together.

    def _meet(self, _calls: Sequence[Call], *_asked: object) -> None:
        """Nothing: that all ranks came is all."""

    def _open_rows(
        self,
        calls: Sequence[Call],
        key: str,
        spec: EmbeddingSpec | TensorSpec,
        kind: str,
        bounds: tuple[int, ...],
    ) -> None:
        row = (spec.embedding_dim,) if isinstance(spec, EmbeddingSpec) else spec.shape[1:]
        ranges = self._new_ranges(kind, bounds)
        self._keeper.check_room(key, (ranges.stop - ranges.start) * prod(row) * spec.dtype.itemsize)
        self._ranges[key] = ranges
        if isinstance(spec, EmbeddingSpec):
            given = [call.tensors[0] for call in calls if call.tensors]
            self._shards[key] = DGLEmbeddingShard(spec, self._keeper, key, ranges, given[0] if given else None)
        else:
            self._shards[key] = DGLTensorShard(spec, self._keeper, key, ranges)

    def _open_graph(self, calls: Sequence[Call], key: str, spec: GraphSpec, kind: str) -> None:
        self._ranges[key] = self._new_ranges(kind, PartitionBook.even(spec.num_nodes, self._parts).bounds)
        given = [call.tensors for call in calls if call.tensors]
        sources, destinations, *ids = (one[0] if len(one) == 1 else torch.cat(one) for one in zip(*given, strict=True))
        edges = torch.stack([sources, destinations])
        self._shards[key] = DGLGraphShard(spec, edges, self._ranges[key], edge_ids=ids[0] if ids else None)

    def _open_dgl(
        self,
        _calls: Sequence[Call],
        key: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        kind: str,
        bounds: tuple[int, ...],
        make: Callable[[tuple[int, ...], torch.dtype], Tensor],
    ) -> None:
        """Keep rows that DGL's own code asks for, such as the state of its optimizers."""
        ranges = self._ranges[key] = self._new_ranges(kind, bounds)
        self._keeper.keep(key, ranges, make((ranges.stop - ranges.start, *shape[1:]), dtype))

    def _mapped(self, _calls: Sequence[Call], job: str) -> None:
        """Take names out of shared memory that all ranks have mapped: it then ends with the last process."""
        remove_names(job)

    def _update(self, calls: Sequence[Call], key: str, rule: UpdateRule) -> None:
        shard = self._shards[key]
        assert isinstance(shard, DGLEmbeddingShard)
        shard.update(*self._joined(calls, key), rule)

    def _replace(self, calls: Sequence[Call], key: str) -> None:
        shard = self._shards[key]
        assert isinstance(shard, DGLTensorShard)
        shard.replace(*self._joined(calls, key))

    def _add(self, calls: Sequence[Call], key: str) -> None:
        shard = self._shards[key]
        assert isinstance(shard, DGLTensorShard)
        shard.add(*self._joined(calls, key))

    def _reset_states(self, _calls: Sequence[Call], key: str, states: Mapping[str, RuleState]) -> None:
        self._row_shard(key).reset_rule_states(states)

    def _joined(self, calls: Sequence[Call], key: str) -> tuple[Tensor, Tensor]:
        """Put the ids, as positions, and the rows of all ranks one after the other."""
        given = [call.tensors for call in calls if call.tensors[0].numel()] or [calls[0].tensors]
        ids, rows = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*given, strict=True))
        return ids - self._ranges[key].start, rows


def _opened(call: Call) -> str:
    """Return the spec that a call is about, in words."""
    return call.about.removeprefix("opening of ")


def lost(ranks: Sequence[int], how: str) -> str:
    """Say of some ranks that they are gone or silent."""
    return f"{listed(ranks)} {'are' if len(ranks) > 1 else 'is'} {how}"
