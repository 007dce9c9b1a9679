"""Checkpoints: all that a training job needs to go on, in a folder that is there whole or not at all.

* :mod:`~distgnn.train.checkpoint.checkpoint`: what is saved and loaded, and in which order,
* :mod:`~distgnn.train.checkpoint.writer`, :mod:`~distgnn.train.checkpoint.reader`: a rank's rows, a block at a time,
* :mod:`~distgnn.train.checkpoint.manifest`: what is where, with checksums; written last,
* :mod:`~distgnn.train.checkpoint.folder`: which checkpoint is the last, and which are removed,
* :mod:`~distgnn.train.checkpoint.plain_state`, :mod:`~distgnn.train.checkpoint.random_state`: states without a pickle,
* :mod:`~distgnn.train.checkpoint.together`: work that fails on all ranks when it fails on one.
"""

from distgnn.train.checkpoint.checkpoint import Checkpoint, Stateful
from distgnn.train.checkpoint.folder import latest_checkpoint, prune_checkpoints
from distgnn.train.checkpoint.manifest import read_manifest

__all__ = ["Checkpoint", "Stateful", "latest_checkpoint", "prune_checkpoints", "read_manifest"]
