"""Ranks of one machine listen on its loopback address only, at whatever world size this file is run."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import distgnn


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are read from Linux's /proc")
def test_every_listening_socket_of_this_process_and_its_servers_is_on_loopback(spread: str) -> None:
    with distgnn.use(spread) as backend:
        assert isinstance(backend, distgnn.SupportsRanks)
        processes = [Path("/proc/self"), *(Path(f"/proc/{child.pid}") for child in psutil.Process().children())]
        files = [file for process in processes for file in Path(process, "fd").iterdir()]
        links = [str(file.readlink()) for file in files if file.is_symlink()]
        own = {link[8:-1] for link in links if link.startswith("socket:")}
        tables = [Path(f"/proc/self/net/{table}").read_text() for table in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines()]
        listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own]
    assert set(listening) <= {"0100007F"}, listening
    assert len(listening) >= (backend.world_size > 1)
