"""Every error that distgnn raises on purpose.

Each is also a built-in exception, so that code which knows nothing of distgnn can catch it by kind::

    DistGNNError
    ├── BackendError
    │   ├── UnknownBackendError         (LookupError)      no backend of that name is known
    │   ├── BackendUnavailableError     (ImportError)      known, but it cannot be loaded here
    │   ├── BrokenBackendError          (TypeError)        loaded, but it does not keep the plugin contract
    │   └── BackendOptionError          (TypeError)        an option that the backend does not take
    ├── StoreError
    │   ├── SpecError                   (ValueError)       a name, size or type that no store can have
    │   ├── NameConflictError           (ValueError)       the name is open with another spec
    │   ├── StoreClosedError            (RuntimeError)     used after close()
    │   ├── IdsError                    (ValueError)       ids of a wrong type, shape or device
    │   ├── IdRangeError                (IndexError)       ids outside the store
    │   │   └── EmbeddingSizeError                         the same in an embedding store
    │   ├── RowsError                   (ValueError)       values or gradients of a wrong shape, type or device
    │   └── NonFiniteGradientError      (ArithmeticError)  NaN or infinite gradients, under DISTGNN_DEBUG=1
    ├── PeerLostError                   (ConnectionError)  another rank or server is gone, or silent for too long
    ├── SecretError                     (PermissionError)  the job's secret is another, or cannot be read
    ├── CallOrderError                  (RuntimeError)     calls in a wrong order (of ranks: under DISTGNN_DEBUG=1)
    ├── GraphInputError                 (ValueError)       edge_index, features or ids that do not fit the layer
    ├── ConfigError                     (ValueError)       an option of a training run that cannot be
    ├── TrainingStoppedError            (RuntimeError)     training was asked to end, and has saved
    ├── RunWriteError                   (OSError)          a file of a run could not be written; what is there is whole
    ├── NonFiniteLossError              (ArithmeticError)  training has come to NaN or infinity
    ├── CheckpointError
    │   ├── CheckpointNotFoundError     (FileNotFoundError)  no checkpoint there, or not all of it
    │   ├── CheckpointFormatError       (ValueError)       damaged, of another run, or of a newer version
    │   └── CheckpointWriteError        (OSError)          it could not be written; there is none of that name
    └── DataError
        ├── UnknownDatasetError         (LookupError)      no data set of that name
        ├── DatasetNotFoundError        (FileNotFoundError)  its files are not on this machine
        └── DataFormatError             (ValueError)       a file that cannot be read as what it should be

An error's text says what was asked, what is known, and what to do.
"""

from __future__ import annotations


class DistGNNError(Exception):
    """Base class of every error that distgnn raises on purpose."""


class BackendError(DistGNNError):
    """A backend could not be found, loaded or opened."""


class UnknownBackendError(BackendError, LookupError):
    """No backend of the asked name is known."""


class BackendUnavailableError(BackendError, ImportError):
    """The backend is known, but it cannot be loaded on this machine; the cause is chained."""


class BrokenBackendError(BackendError, TypeError):
    """The backend was loaded, but it does not keep the plugin contract."""


class BackendOptionError(BackendError, TypeError):
    """An option was given that the backend does not take."""


class StoreError(DistGNNError):
    """A store was asked for something that it cannot do; it has not changed."""


class SpecError(StoreError, ValueError):
    """A spec with a name, size or type that no store can have."""


class NameConflictError(StoreError, ValueError):
    """The name is open with another spec; the text shows both."""


class StoreClosedError(StoreError, RuntimeError):
    """A store or backend was used after it had been closed."""


class IdsError(StoreError, ValueError):
    """Ids are not an int64 vector on the store's device."""


class IdRangeError(StoreError, IndexError):
    """Ids are negative or beyond the store."""


class EmbeddingSizeError(IdRangeError):
    """Ids are negative or beyond the embedding store; the text names ``set_num_embeddings``."""


class RowsError(StoreError, ValueError):
    """Values or gradients do not fit the rows that they are meant for."""


class NonFiniteGradientError(StoreError, ArithmeticError):
    """Gradients hold NaN or infinity. Checked only with ``DISTGNN_DEBUG=1``, for the check reads every gradient."""


class PeerLostError(DistGNNError, ConnectionError):
    """Another rank or a server is gone or silent; the text names it, the store and the call."""


class SecretError(DistGNNError, PermissionError):
    """This process was not admitted to a job, for its secret is another; or the secret cannot be read."""


class CallOrderError(DistGNNError, RuntimeError):
    """Calls came in an order that cannot be, which the text names; of ranks, it is seen with ``DISTGNN_DEBUG=1``."""


class GraphInputError(DistGNNError, ValueError):
    """A graph, its features or its ids do not fit the layer that they are given to."""


class ConfigError(DistGNNError, ValueError):
    """An option of a training run has a value that cannot be, or does not go with the others."""


class TrainingStoppedError(DistGNNError, RuntimeError):
    """Training was asked to end before its time, and has written a checkpoint; the text says where."""


class RunWriteError(DistGNNError, OSError):
    """A file of a run's folder could not be written; the text names it, and what was there before is whole."""


class NonFiniteLossError(DistGNNError, ArithmeticError):
    """Training has come to a loss, scores or weights that are NaN or infinite; the text says since which epoch."""


class CheckpointError(DistGNNError):
    """A checkpoint could not be written or read; the text names the folder or file."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint, or a file of it is missing."""


class CheckpointFormatError(CheckpointError, ValueError):
    """A checkpoint is damaged, of another run, of a newer version, or has what cannot be saved."""


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint could not be written; what was there before is as it was."""


class DataError(DistGNNError):
    """A data set could not be loaded."""


class UnknownDatasetError(DataError, LookupError):
    """No data set of the asked name is known."""


class DatasetNotFoundError(DataError, FileNotFoundError):
    """The files of a data set are not on this machine and cannot be downloaded."""


class DataFormatError(DataError, ValueError):
    """A file cannot be read as the data that it should hold."""
