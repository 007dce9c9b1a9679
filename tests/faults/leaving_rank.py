"""A rank that has met the others, and ends before it has connected to their server; rank 0 is as usual."""

from __future__ import annotations

import os

import distgnn
from distgnn.backends.dgl.cluster import Cluster


def leave(cluster: Cluster, timeout: float) -> None:
    os._exit(9)


if os.environ["RANK"] == "1":
    Cluster._connect = leave  # type: ignore[assignment,method-assign]  # this rank has a failure of its own
distgnn.use("dgl", timeout=8)
