"""Distributed Graph Isomorphism Networks for PyTorch Geometric, with pluggable storage.

The layers and models are in :mod:`distgnn.nn`, the optimizers in :mod:`distgnn.optim`. Here is what selects a storage
backend and what a backend is written against. What needs torch is imported when it is first used, so that
``import distgnn`` and ``distgnn --help`` answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn._lazy import lazy_names
from distgnn._version import __version__
from distgnn.errors import (
    BackendError,
    BackendOptionError,
    BackendUnavailableError,
    BrokenBackendError,
    CallOrderError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    ConfigError,
    DataError,
    DataFormatError,
    DatasetNotFoundError,
    DistGNNError,
    EmbeddingSizeError,
    GraphInputError,
    IdRangeError,
    IdsError,
    NameConflictError,
    NonFiniteGradientError,
    NonFiniteLossError,
    PeerLostError,
    RowsError,
    RunWriteError,
    SecretError,
    SpecError,
    StoreClosedError,
    StoreError,
    TrainingStoppedError,
    UnknownBackendError,
    UnknownDatasetError,
)

if TYPE_CHECKING:
    from distgnn.distributed.communicator import Communicator, LocalCommunicator, SupportsRanks
    from distgnn.distributed.process_group import ProcessGroupCommunicator
    from distgnn.storage.capabilities import (
        RuleState,
        SupportsCache,
        SupportsCheckpoint,
        SupportsGraphParts,
        SupportsPlacement,
        SupportsPrefetch,
        SupportsResize,
        SupportsTraffic,
    )
    from distgnn.storage.hookspecs import hookimpl
    from distgnn.storage.protocols import (
        Backend,
        EmbeddingStore,
        GraphStore,
        InEdges,
        StateSpec,
        TensorStore,
        UpdateRule,
    )
    from distgnn.storage.registry import BackendInfo, get_backend, list_backends, use
    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, PartitionBook, TensorSpec
    from distgnn.storage.toolkit.initial import initial_rows

__all__ = [
    "Backend",
    "BackendError",
    "BackendInfo",
    "BackendOptionError",
    "BackendUnavailableError",
    "BrokenBackendError",
    "CallOrderError",
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointNotFoundError",
    "CheckpointWriteError",
    "Communicator",
    "ConfigError",
    "DataError",
    "DataFormatError",
    "DatasetNotFoundError",
    "DistGNNError",
    "EmbeddingSizeError",
    "EmbeddingSpec",
    "EmbeddingStore",
    "GraphInputError",
    "GraphSpec",
    "GraphStore",
    "IdRangeError",
    "IdsError",
    "InEdges",
    "LocalCommunicator",
    "NameConflictError",
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "PartitionBook",
    "PeerLostError",
    "ProcessGroupCommunicator",
    "RowsError",
    "RuleState",
    "RunWriteError",
    "SecretError",
    "SpecError",
    "StateSpec",
    "StoreClosedError",
    "StoreError",
    "SupportsCache",
    "SupportsCheckpoint",
    "SupportsGraphParts",
    "SupportsPlacement",
    "SupportsPrefetch",
    "SupportsRanks",
    "SupportsResize",
    "SupportsTraffic",
    "TensorSpec",
    "TensorStore",
    "TrainingStoppedError",
    "UnknownBackendError",
    "UnknownDatasetError",
    "UpdateRule",
    "__version__",
    "get_backend",
    "hookimpl",
    "initial_rows",
    "list_backends",
    "use",
]

_LAZY = {
    "distributed.communicator": ("Communicator", "LocalCommunicator", "SupportsRanks"),
    "distributed.process_group": ("ProcessGroupCommunicator",),
    "storage.capabilities": (
        "RuleState",
        "SupportsCache",
        "SupportsCheckpoint",
        "SupportsGraphParts",
        "SupportsPlacement",
        "SupportsPrefetch",
        "SupportsResize",
        "SupportsTraffic",
    ),
    "storage.hookspecs": ("hookimpl",),
    "storage.protocols": (
        "Backend",
        "EmbeddingStore",
        "GraphStore",
        "InEdges",
        "StateSpec",
        "TensorStore",
        "UpdateRule",
    ),
    "storage.registry": ("BackendInfo", "get_backend", "list_backends", "use"),
    "storage.specs": ("EmbeddingSpec", "GraphSpec", "PartitionBook", "TensorSpec"),
    "storage.toolkit.initial": ("initial_rows",),
}


__getattr__ = lazy_names(__name__, _LAZY)


def __dir__() -> list[str]:
    return __all__
