"""A rank leaves after all have met: ``leaving_rank.py BACKEND STEP SIGNAL TIMEOUT``; it is rank 1, or ``LOST``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import distgnn
from distgnn.backends.dgl import backend as dgl
from distgnn.backends.dgl.cluster import Cluster
from distgnn.backends.pyg import ranks as pyg

STEPS: dict[str, tuple[Any, str]] = {
    "pyg groups": (pyg, "connect_ranks"),
    "pyg sockets": (pyg, "Host"),
    "dgl groups": (dgl, "connect_ranks"),
    "dgl servers": (dgl, "Cluster"),
    "dgl connections": (Cluster, "_connect"),
}


def main() -> None:
    backend, step, number, timeout = sys.argv[1:]
    owner, name = STEPS[f"{backend} {step}"]
    usual = getattr(owner, name)

    def leave(*arguments: Any, **options: Any) -> Any:
        if name == "Host" and len(arguments) == 1:
            return usual(*arguments, **options)  # that of a rank alone, before it has met the others
        os.kill(os.getpid(), signal.Signals[number])
        return None

    if os.environ["RANK"] == os.environ.get("LOST", "1"):
        setattr(owner, name, leave)  # this rank has a failure of its own
    distgnn.use(backend, timeout=float(timeout))


if __name__ == "__main__":
    main()
