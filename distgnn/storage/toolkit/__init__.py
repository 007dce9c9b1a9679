"""The toolkit of storage backends, for their authors.

A backend needs nothing of this: the contract is :mod:`distgnn.storage.protocols`. Whoever can read and write rows by
number has whole stores by :class:`RowEmbeddingStore` and :class:`RowTensorStore`, and a whole backend of one process by
:class:`LocalBackend`. Whoever holds ranges of rows on several ranks or servers keeps each by a shard, and the stores
that are open by :class:`OpenStores`.
"""

from distgnn.storage.specs import check_same_spec
from distgnn.storage.toolkit.graph_shard import GraphShard
from distgnn.storage.toolkit.initial import initial_rows, initial_rows_of
from distgnn.storage.toolkit.local_stores import (
    LocalBackend,
    LocalEmbeddingStore,
    LocalGraphStore,
    LocalTensorStore,
    OpenEmbedding,
    OpenGraph,
    OpenTensor,
)
from distgnn.storage.toolkit.open_stores import (
    OpenStore,
    OpenStores,
    already_open_error,
    edges_conflict_error,
    require_edges,
    require_open,
)
from distgnn.storage.toolkit.row_shard import (
    EmbeddingShard,
    RowShard,
    TensorShard,
    book_for,
    check_exported,
    check_range,
    last_of_each,
    resized_spec,
)
from distgnn.storage.toolkit.row_stores import NewRows, OpenRows, RowEmbeddingStore, Rows, RowTensorStore
from distgnn.storage.toolkit.rows import (
    accumulation_dtype,
    group_by_id,
    move_rows,
    put_rows,
    sum_by_id,
    take_rows,
    update_rows,
)
from distgnn.storage.toolkit.rule_states import KeepsRuleStates, check_state, rule_name
from distgnn.storage.toolkit.sampling import derive_seed, multiset_hash, sample_without_replacement, uniform
from distgnn.storage.toolkit.threads import share_work

__all__ = [
    "EmbeddingShard",
    "GraphShard",
    "KeepsRuleStates",
    "LocalBackend",
    "LocalEmbeddingStore",
    "LocalGraphStore",
    "LocalTensorStore",
    "NewRows",
    "OpenEmbedding",
    "OpenGraph",
    "OpenRows",
    "OpenStore",
    "OpenStores",
    "OpenTensor",
    "RowEmbeddingStore",
    "RowShard",
    "RowTensorStore",
    "Rows",
    "TensorShard",
    "accumulation_dtype",
    "already_open_error",
    "book_for",
    "check_exported",
    "check_range",
    "check_same_spec",
    "check_state",
    "derive_seed",
    "edges_conflict_error",
    "group_by_id",
    "initial_rows",
    "initial_rows_of",
    "last_of_each",
    "move_rows",
    "multiset_hash",
    "put_rows",
    "require_edges",
    "require_open",
    "resized_spec",
    "rule_name",
    "sample_without_replacement",
    "share_work",
    "sum_by_id",
    "take_rows",
    "uniform",
    "update_rows",
]
