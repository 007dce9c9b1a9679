"""The doctor on a machine with a few ailments, which the test gives it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUMMARY = 'rows of "ill[extra]"'


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command where a plugin is installed that does not open."""
    (tmp_path / "ill.py").write_text(
        "import distgnn\n\nclass Ill:\n    name = 'ill'\n    open_embedding = open_tensor = open_graph = close = None\n"
        "    def __init__(self):\n        raise OSError('the disk is gone')\n\n"
        "@distgnn.hookimpl\ndef distgnn_backend():\n    return Ill\n"
    )
    metadata = tmp_path / "ill-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ill\nVersion: 1.0\nSummary: {SUMMARY}\n")
    (metadata / "entry_points.txt").write_text("[distgnn]\nill = ill\n")
    paths = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "distgnn", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "250", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_is_wrong_is_found_and_nothing_else(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 29500))
        listener.listen()
        done = run(
            tmp_path, "doctor", "--json", DISTGNN_DATA="/nowhere", DISTGNN_CACHE="/dev/null", GLOO_SOCKET_IFNAME="none0"
        )
    assert done.returncode == 1
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert {subject for subject, one in found.items() if one["status"] == "problem"} == {
        "backend ill",
        "network",
        "data sets",
        "cache",
    }
    assert "the disk is gone" in found["backend ill"]["found"]
    assert "GLOO_SOCKET_IFNAME=none0 is none of lo 127.0.0.1" in found["network"]["found"]
    assert "/nowhere is no folder" in found["data sets"]["found"]
    assert "/dev/null cannot be written" in found["cache"]["found"]
    assert "safetensors" in found["packages"]["found"]
    assert found["port 29500"]["status"] == "note"
    assert "--master-port" in found["port 29500"]["fix"]
    assert found["backend memory"]["status"] == found["backend pyg"]["status"] == "ok"
    assert all(one["fix"] for one in found.values() if one["status"] != "ok")


def test_square_brackets_of_extras_are_shown(tmp_path: Path) -> None:
    assert SUMMARY in run(tmp_path, "backends").stdout
