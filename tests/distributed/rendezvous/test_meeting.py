"""Ranks that meet: what must be the same on all of them, who is there twice, and who gets their key."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore, Store, TCPStore  # type: ignore[attr-defined]  # they are there

from distgnn import ConfigError, PeerLostError, SecretError, __version__
from distgnn.distributed.agreement import check_agreement
from distgnn.distributed.rendezvous.meeting import Meeting, meet

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTGNN_SECRET", "DISTGNN_SECRET_FILE", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)


def come(
    store: Store,
    rank: int,
    size: int,
    facts: dict[str, str] | None = None,
    *,
    local: bool = False,
    timeout: float = 10.0,
) -> Meeting | Exception:
    try:
        return meet(store, rank, size, timeout, facts, local=local)
    except (ConfigError, PeerLostError, SecretError) as error:
        return error


def together(
    *ranks: tuple[int, int, dict[str, str]], local: bool = False, timeout: float = 10.0
) -> list[Meeting | Exception]:
    store = HashStore()
    with ThreadPoolExecutor(len(ranks)) as pool:
        coming = [
            pool.submit(come, store, rank, size, facts, local=local, timeout=timeout) for rank, size, facts in ranks
        ]
        return [one.result() for one in coming]


def test_ranks_that_agree_know_each_others_host_and_get_one_key() -> None:
    for local in (False, True):
        met = together((0, 3, {"backend": "pyg"}), (1, 3, {"backend": "pyg"}), (2, 3, {"backend": "pyg"}), local=local)
        assert all(isinstance(one, Meeting) for one in met), met
        first, *others = [one for one in met if isinstance(one, Meeting)]
        assert all((one.key, one.ranks) == (first.key, first.ranks) for one in others)
        assert first.is_private == local == others[0].is_private, "on one host they make a secret themselves"
        assert len({said.host for said in first.ranks}) == 1
        assert first.ranks[0].facts["distgnn's version"] == __version__
        assert first.ranks[0].facts["torch's version"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(
    ("second", "third", "words"),
    [
        ({"backend": "dgl"}, {"backend": "pyg"}, "ranks differ in backend: pyg on rank 0, dgl on rank 1; start every"),
        ({"backend": "pyg"}, {"backend": "dgl"}, "ranks differ in backend: pyg on rank 0, dgl on rank 2; start every"),
        ({"backend": "pyg", "more": "1"}, {"backend": "pyg"}, "ranks differ in more: not given on rank 0, 1 on rank 1"),
    ],
)
def test_the_first_difference_is_named_on_every_rank(second: dict[str, str], third: dict[str, str], words: str) -> None:
    for error in together((0, 3, {"backend": "pyg"}), (1, 3, second), (2, 3, third)):
        assert isinstance(error, ConfigError), error
        # Rank 1 may be told before rank 2 has come.
        assert str(error).startswith(words) or "on rank 2" in str(error)


def test_debugging_on_one_rank_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.environ.get

    def get(name: str, *default: str) -> str | None:
        is_second = threading.current_thread().name == "second"
        return "1" if name == "DISTGNN_DEBUG" and is_second else real(name, *default)

    store = HashStore()
    found: list[Meeting | Exception] = []
    with monkeypatch.context() as patch:
        patch.setattr(os.environ, "get", get)
        ranks = [
            threading.Thread(target=lambda rank: found.append(come(store, rank, 2)), args=(rank,), name=name)
            for rank, name in enumerate(["first", "second"])
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    assert [str(error) for error in found] == [
        "ranks differ in DISTGNN_DEBUG: not set on rank 0, 1 on rank 1; start every rank with the same"
    ] * 2


def test_another_world_size_is_named_by_who_is_within_and_by_who_is_beyond() -> None:
    for error in together((0, 2, {}), (1, 3, {})):
        assert str(error).startswith("ranks differ in WORLD_SIZE: 2 on rank 0, 3 on rank 1")
    first, second, beyond = together((0, 2, {}), (1, 2, {}), (2, 3, {}))
    assert isinstance(first, Meeting)
    assert isinstance(second, Meeting)
    assert str(beyond).startswith("ranks differ in WORLD_SIZE: 2 on rank 0, 3 on rank 2")
    for error in together((0, 3, {}), (1, 2, {})):
        assert str(error).startswith("ranks differ in WORLD_SIZE: 3 on rank 0, 2 on rank 1")


def test_a_rank_that_was_started_twice_is_told_so_and_the_others_go_on() -> None:
    # Had it to wait for its timeout, this test would not end in time.
    first, *twice = together((0, 2, {}), (1, 2, {}), (1, 2, {}), timeout=1e5)
    assert isinstance(first, Meeting)
    assert sum(isinstance(one, Meeting) for one in twice) == 1
    (error,) = (one for one in twice if not isinstance(one, Meeting))
    assert isinstance(error, ConfigError)
    assert str(error).startswith("rank 1 was started twice: another process came as rank 1 before this one")


def test_differences_are_compared_with_the_first_and_in_the_order_in_which_they_are_said() -> None:
    check_agreement({0: {"a": 1, "b": 2}, 1: {"b": 2, "a": 1}})
    check_agreement({3: {"a": 1}})
    with pytest.raises(ConfigError, match="ranks differ in b: 2 on rank 0, 4 on rank 2"):
        check_agreement({0: {"a": 1, "b": 2, "c": 3}, 1: {"a": 1, "b": 2, "c": 9}, 2: {"a": 1, "b": 4, "c": 3}})


STRANGER = """
import codecs, os, sys
from datetime import timedelta
from torch.distributed import TCPStore
from distgnn.distributed.rendezvous.meeting import meet
[codecs.lookup(name) for name in ("ascii", "idna", "utf-8")]  # this user cannot read what Python imports later
os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, timeout=timedelta(seconds=60))
try:
    meet(store, 1, 2, 10.0, local=sys.argv[2] == "local")
except Exception as error:
    print(type(error).__name__, error)
else:
    print("admitted")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("says", ["local", "anything"])
def test_a_process_of_another_user_does_not_take_a_ranks_place_and_the_rank_itself_is_let_in(says: str) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = [sys.executable, "-W", "ignore", "-c", STRANGER, str(store.port), says]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(come, store, 0, 2, local=True, timeout=60.0)
        stranger = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert stranger.stdout.startswith("SecretError "), stranger.stdout + stranger.stderr
        if says == "local":
            assert "is user 0, this process user 65534's" in stranger.stdout
        else:
            assert "it has no secret, and rank 0 has one that it made for its own host" in stranger.stdout
        second = TCPStore("127.0.0.1", store.port, is_master=False)
        met = come(second, 1, 2, local=True)
        result = first.result()
    assert isinstance(met, Meeting), met
    assert isinstance(result, Meeting), result
    assert result.key == met.key
