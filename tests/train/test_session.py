from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgnn
from distgnn import ConfigError
from distgnn.train.session import Machine, Session, join_ip_config, read_ip_config

FOUNDING = """\
192.168.1.100 0
192.168.1.101 1
192.168.1.102 2
192.168.1.103 3
"""
OWN = "127.0.0.1"


@pytest.fixture
def ip_config(tmp_path: Path) -> Path:
    return tmp_path / "ip_config.txt"


def test_the_founding_file_is_read(ip_config: Path) -> None:
    ip_config.write_text(FOUNDING)
    assert read_ip_config(ip_config) == [Machine(f"192.168.1.{100 + rank}", rank, 29500) for rank in range(4)]


def test_comments_blank_lines_ports_and_any_order_are_read(ip_config: Path) -> None:
    ip_config.write_text("# the cluster\n\n10.0.0.2\t1   # the second\n  10.0.0.1 0 4000\n")
    assert read_ip_config(ip_config) == [Machine("10.0.0.1", 0, 4000), Machine("10.0.0.2", 1, 29500)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"the ranks must be 0, 1, ... without gaps, not \[\]"),
        ("# nothing\n\n", r"without gaps, not \[\]"),
        ("10.0.0.1\n10.0.0.2 1", "line 1: '10.0.0.1': expected 'address rank' or 'address rank port'"),
        (
            "10.0.0.1 0\n10.0.0.2 30050",
            r"without gaps, not \[0, 30050\]; 30050 looks like a port: write 'addr",
        ),
        ("10.0.0.1 30050\n10.0.0.2 70000", "line 2: .*the port '70000'"),
        ("10.0.0.1\n10.0.0.1", "line 2: 10.0.0.1 is there already, on line 1"),
        ("10.0.0.1 0\n\n10.0.0.2 1 4000 x", "line 3: .*expected 'address rank'"),
        ("10.0.0.1 0\nho/st 1", "line 2: .*'ho/st' is no IPv4 or IPv6 address and no host name"),
        ("10.0.0.256 0", "line 1: .*'10.0.0.256' is no IPv4 or IPv6 address and no host name"),
        ("[::1 0", r"line 1: .*'\[::1' is no IPv4 or IPv6 address"),
        ("10.0.0.1 -1", "line 1: .*the rank '-1' is no whole number from 0"),
        ("10.0.0.1 one", "line 1: .*the rank 'one'"),
        ("10.0.0.1 0 70000", "line 1: .*the port '70000' is no number from 1 to 65535"),
        ("10.0.0.1 0 0", "line 1: .*the port '0'"),
        ("10.0.0.1 0\n10.0.0.2 0", "line 2: rank 0 is there already"),
        ("10.0.0.1 0\n10.0.0.1 1", "line 2: 10.0.0.1 is there already, on line 1; several processes of one machine"),
        ("10.0.0.1 0\n10.0.0.2 2", r"without gaps, not \[0, 2\]"),
        ("10.0.0.1 1\n10.0.0.2 2", r"without gaps, not \[1, 2\]"),
    ],
)
def test_a_malformed_file_is_refused_by_its_line(text: str, words: str, ip_config: Path) -> None:
    ip_config.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_ip_config(ip_config)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_the_ends_of_lines_do_not_matter(mark: bytes, end: bytes, ip_config: Path) -> None:
    ip_config.write_bytes(mark + end.join([b"10.0.0.1 0 4000", b"10.0.0.2 1", b""]))
    assert read_ip_config(ip_config) == [Machine("10.0.0.1", 0, 4000), Machine("10.0.0.2", 1, 29500)]


@pytest.mark.parametrize(
    ("text", "machines"),
    [
        ("10.0.0.1 30050\n10.0.0.2 30051\n", [Machine("10.0.0.1", 0, 30050), Machine("10.0.0.2", 1, 30051)]),
        ("10.0.0.2\n10.0.0.1\n", [Machine("10.0.0.2", 0, 29500), Machine("10.0.0.1", 1, 29500)]),
        ("10.0.0.2 # first\n\nnode-1 30050", [Machine("10.0.0.2", 0, 29500), Machine("node-1", 1, 30050)]),
    ],
)
def test_a_file_as_dgl_has_it_gives_ranks_in_the_order_of_its_lines(
    text: str, machines: list[Machine], ip_config: Path
) -> None:
    ip_config.write_text(text)
    assert read_ip_config(ip_config) == machines


def test_host_names_and_ipv6_are_addresses_too(ip_config: Path) -> None:
    ip_config.write_text("node01.cluster 0\nfe80::1 1\n[2001:db8::2] 2\n")
    assert [one.address for one in read_ip_config(ip_config)] == ["node01.cluster", "fe80::1", "2001:db8::2"]


@given(st.text(max_size=60) | st.from_regex(r"([0-9]{1,3}(\.[0-9]{1,3}){2,4}[ \t]+[0-9#]{1,6}\n?){1,4}"))
def test_no_text_gets_another_error(text: str) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"distgnn-ip-config-{os.getpid()}")
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        machines = read_ip_config(path)
    except ConfigError:
        return
    finally:
        path.unlink()
    assert [machine.rank for machine in machines] == list(range(len(machines)))


def test_a_file_that_cannot_be_read_is_refused(ip_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        read_ip_config(ip_config)
    ip_config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_ip_config(ip_config)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables; those that a test sets are gone afterwards."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")


def test_this_machine_finds_its_line_and_tells_torch(ip_config: Path, clean: None) -> None:
    ip_config.write_text(f"203.0.113.7 0 4321\n{OWN} 1\n")
    join_ip_config(ip_config)
    assert {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")} == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "203.0.113.7",
        "MASTER_PORT": "4321",
    }
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_this_machine_finds_its_line_by_its_name(ip_config: Path, clean: None) -> None:
    ip_config.write_text(f"{socket.gethostname().upper()} 0\nelsewhere.invalid 1\n")
    join_ip_config(ip_config)
    assert (os.environ["RANK"], os.environ["MASTER_ADDR"]) == ("0", socket.gethostname().upper())
    ip_config.write_text("elsewhere.invalid 0\nlocalhost 1\n")
    join_ip_config(ip_config)
    assert (os.environ["RANK"], os.environ["GLOO_SOCKET_IFNAME"]) == ("1", "lo")


def test_behind_nat_a_machine_says_which_line_is_its_own(ip_config: Path, clean: None) -> None:
    ip_config.write_text("203.0.113.7 0\n203.0.113.8 1\n")
    join_ip_config(ip_config, rank=1)
    assert (os.environ["RANK"], os.environ["MASTER_ADDR"]) == ("1", "203.0.113.7")
    assert not os.environ["GLOO_SOCKET_IFNAME"], "no interface has that address"


@pytest.mark.parametrize(
    ("text", "rank", "words"),
    [
        ("203.0.113.7 0\n203.0.113.8 1", None, "none of its lines is this machine's, whose addresses are .*127.0.0.1"),
        (f"{OWN} 0\n203.0.113.8 1", 1, "rank 1 is 203.0.113.8, which is not .*, on the line of rank 0"),
        (f"{OWN} 0", 1, "has ranks 0 to 0, not 1"),
        (f"{OWN} 0", -1, "has ranks 0 to 0, not -1"),
    ],
)
def test_a_file_without_this_machine_is_refused(text: str, rank: int | None, words: str, ip_config: Path) -> None:
    ip_config.write_text(text)
    with pytest.raises(ConfigError, match=words):
        join_ip_config(ip_config, rank)


def test_a_backend_of_one_process_is_refused_under_a_launcher_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    with distgnn.use("memory") as backend:
        assert (Session(backend).rank, Session(backend).world_size) == (0, 1)
        for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": OWN, "MASTER_PORT": "9"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="a launcher started 2 processes, and backend 'memory' joins 1"):
            Session(backend)
