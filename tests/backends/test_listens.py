"""Ranks of one machine listen on its loopback address only, at whatever world size this file is run."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

import distgnn


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are read from Linux's /proc")
def test_every_socket_that_the_backend_and_its_servers_listen_on_is_on_loopback(spread: str) -> None:
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    before = listening() if alone else {}  # other tests of this process may listen
    with distgnn.use(spread) as backend:
        assert isinstance(backend, distgnn.SupportsRanks)
        addresses = [address for inode, address in listening().items() if inode not in before]
    assert set(addresses) <= {"0100007F"}, addresses
    assert alone or addresses


def listening() -> dict[str, str]:
    """Return the addresses, by inode, that this process and its children listen on."""
    processes = [Path("/proc/self"), *(Path(f"/proc/{child.pid}") for child in psutil.Process().children())]
    files = [file for process in processes for file in Path(process, "fd").iterdir()]
    links = [str(file.readlink()) for file in files if file.is_symlink()]
    own = {link[8:-1] for link in links if link.startswith("socket:")}
    tables = [Path(f"/proc/self/net/{table}").read_text() for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {row[9]: row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own}
