"""The watch over a job's ranks."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # they are there

from distgnn import PeerLostError
from distgnn.distributed.peers import PeerWatch
from tests.jobs import forks

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def keep_store(said: Connection) -> None:
    """Be who keeps the job's store."""
    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    said.send(store.port)
    time.sleep(600)


@pytest.mark.parametrize(("number", "limit"), [(signal.SIGSTOP, 2.0), (signal.SIGKILL, 600.0)], ids=["stop", "kill"])
@pytest.mark.parametrize("since", ["before", "after"])
def test_a_keeper_of_the_store_that_is_lost_keeps_nobody(number: signal.Signals, limit: float, since: str) -> None:
    mine, theirs = forks.Pipe()
    keeper = forks.Process(target=keep_store, args=(theirs,), daemon=True)
    keeper.start()
    store = PrefixStore("job", TCPStore("127.0.0.1", mine.recv(), None, False, timedelta(seconds=limit)))
    try:
        if since == "after":
            watch = PeerWatch(store, 1, 2, limit)
        os.kill(keeper.pid or 0, number)
        if number == signal.SIGKILL:
            keeper.join()
        if since == "before":
            with pytest.raises(PeerLostError, match="rank 0, which keeps the job's store, is gone or silent, noticed"):
                PeerWatch(store, 1, 2, min(limit, 5.0))
        else:
            how = "gone" if number == signal.SIGKILL else "silent for 2 s"
            lost = pytest.raises(PeerLostError, match=f"rank 0 is {how}, noticed by rank 1 in a call")
            with lost, watch.noticing("a call"):
                raise ConnectionError("the connection broke")
    finally:
        keeper.kill()
        keeper.join()
