"""Whoever does not know a job's secret does not become one of its ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
from torch.distributed import HashStore, PrefixStore  # type: ignore[attr-defined]  # they are there

from distgnn import PeerLostError, SecretError
from distgnn.backends.pyg.host import Host
from distgnn.distributed.rendezvous.authentication import job_secret
from distgnn.distributed.rendezvous.join import Job
from distgnn.distributed.rendezvous.meeting import meet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "a secret of more than 16 characters"
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def meet_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None, str | None], list[object]]:
    """Have ranks 0 and 1 meet, each with a secret of its own, and return what came of it."""
    secrets: dict[str, str | None] = {}

    def own() -> bytes:
        return (secrets[threading.current_thread().name] or "").encode()

    monkeypatch.setattr("distgnn.distributed.rendezvous.meeting.job_secret", own)

    def meeting(*both: str | None) -> list[object]:
        store = HashStore()
        found: list[object] = [None, None]

        def join(rank: int) -> None:
            try:
                found[rank] = meet(store, rank, 2, 2.0)[1]
            except (PeerLostError, SecretError) as error:
                found[rank] = error

        threads = [threading.Thread(target=join, args=(rank,), name=f"rank {rank}") for rank in (0, 1)]
        secrets.update({thread.name: secret for thread, secret in zip(threads, both, strict=True)})
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return meeting


def test_ranks_of_one_secret_get_a_key_that_changes_from_job_to_job(
    meet_with: Callable[..., list[object]],
) -> None:
    first, second = (meet_with(SECRET, SECRET) for _ in range(2))
    assert first[0] == first[1] != second[0] == second[1]
    assert isinstance(first[0], bytes)


@pytest.mark.parametrize(
    ("both", "words"),
    [
        (
            (SECRET, "another secret than the job's"),
            "it has a secret, and rank 0 has another; start every rank with the",
        ),
        ((SECRET, None), "it has no secret, and rank 0 has another"),
        ((None, SECRET), "it has a secret, and rank 0 has none"),
    ],
)
def test_a_rank_of_another_secret_is_told_at_once_and_the_others_at_their_timeout(
    both: tuple[str | None, str | None], words: str, meet_with: Callable[..., list[object]]
) -> None:
    host, stranger = meet_with(*both)
    assert isinstance(stranger, SecretError)
    assert f"rank 1 is not admitted to the job of 2 ranks: {words}" in str(stranger)
    assert isinstance(host, PeerLostError)
    assert "without rank 1: start 2 processes" in str(host)
    assert str(host).endswith("; whoever came as rank 1 has not the job's secret")


def test_nothing_in_the_store_tells_the_secret_or_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_SECRET", SECRET)
    store = HashStore()
    with ThreadPoolExecutor() as ranks:
        keys = [met.key for met in ranks.map(lambda rank: meet(store, rank, 2, 10.0), (0, 1))]
    name = store.get("meeting").decode()
    said = b" ".join(PrefixStore(name, store).get(key) for key in ("0", "1", "came"))
    assert keys[0].hex().encode() not in said
    assert SECRET.encode() not in said


@pytest.mark.skipif(sys.platform != "linux", reason="sockets without a file are Linux's")
def test_strangers_who_find_the_socket_of_a_rank_are_closed_out_and_the_rank_itself_is_let_in() -> None:
    store, key = PrefixStore("job", HashStore()), b"key"
    with ThreadPoolExecutor() as ranks:
        first = ranks.submit(Host, 0, Job(0, 2, store, key), 20.0)
        address = "\0" + store.get("host/0").decode().split()[1]
        store.set("host/1", store.get("host/0").decode())  # rank 1 is on this host, it says
        for said in (b"", b"x", b"\1" + bytes(7), b"\1" + bytes(7 + 64), bytes(1000)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                stranger.settimeout(10)
                stranger.connect(address)
                assert len(stranger.recv(1024)) == 32, "each is asked another question"
                if said:
                    stranger.send(said)
                    assert closed(stranger)
        if os.getuid() == 0:
            assert run_as_nobody(address) == "closed"
        second = Host(1, Job(1, 2, store, key), 20.0)
        pieces = [[[torch.full((3,), rank, dtype=torch.uint8)]] * 2 for rank in (0, 1)]
        exchanges = [
            ranks.submit(one.exchange, own) for one, own in zip((first.result(20), second), pieces, strict=True)
        ]
        assert [[int(piece[0]) for (piece,) in one.result(20)] for one in exchanges] == [[0, 1], [0, 1]]
        first.result().close()
        second.close()


def test_a_rank_does_not_talk_to_who_listens_in_the_place_of_another() -> None:
    store = PrefixStore("job", HashStore())
    with ThreadPoolExecutor() as ranks:
        listening = ranks.submit(Host, 0, Job(0, 2, store, b"a stranger's key"), 3.0)
        with pytest.raises(ConnectionRefusedError, match="whoever listens as rank 0 is not of this job"):
            Host(1, Job(1, 2, store, b"key"), 20.0)
        with pytest.raises(TimeoutError):
            listening.result()


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1024) == b""
    except ConnectionResetError:
        return True


def run_as_nobody(address: str) -> str:
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.settimeout(10); s.connect('\\0' + sys.argv[1])\n"
        "try: print('closed' if s.recv(1024) == b'' else 'asked')\n"
        "except ConnectionResetError: print('closed')"
    )
    command = [sys.executable, "-S", "-c", script, address[1:]]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("DISTGNN_SECRET_FILE", str(path))
    return path


def test_a_secret_is_read_from_a_file_of_this_user_alone(secret_file: Path) -> None:
    assert job_secret() == SECRET.encode()
    for mode in (0o640, 0o604, 0o620, 0o644):
        secret_file.chmod(mode)
        with pytest.raises(SecretError, match=f"mode {mode:03o} and belongs to user .*: chmod 600 {secret_file}"):
            job_secret()


def test_a_secret_that_cannot_be_read_or_is_short_is_an_error_and_not_no_secret(
    secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text("short\n")
    with pytest.raises(SecretError, match=r"has 5 characters, and a secret has at least 16: make one by: .*openssl"):
        job_secret()
    secret_file.unlink()
    with pytest.raises(SecretError, match=r"secret cannot be read \(.*No such file"):
        job_secret()
    os.mkfifo(secret_file, 0o600)
    with pytest.raises(SecretError, match="is no regular file"):
        job_secret()
    monkeypatch.delenv("DISTGNN_SECRET_FILE")
    monkeypatch.setenv("DISTGNN_SECRET", "")
    with pytest.raises(SecretError, match="DISTGNN_SECRET has 0 characters"):
        job_secret()
