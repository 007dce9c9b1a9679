"""A cluster file: which machine is which rank."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distgnn.distributed.rendezvous.addresses import interface_of, own_addresses, resolved
from distgnn.distributed.rendezvous.ports import usual_port
from distgnn.errors import ConfigError

_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!.*\.\d+$)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_LEAST_PORT = 1024  # a smaller number is taken for a rank
_ADVICE = "write 'address rank' on every line, and a port behind rank 0 if wanted; or, as DGL does, 'address [port]'"


@dataclass(frozen=True)
class Machine:
    """A line of an ip_config file.

    Args:
        address: Its IP address or host name.
        rank: Its rank.
        port: Where rank 0 waits for the others.
    """

    address: str
    rank: int
    port: int


class _Line(NamedTuple):
    label: str
    words: list[str]


def read_ip_config(path: str | Path) -> list[Machine]:
    """Read a cluster file: ``address rank`` a line, and on the line of rank 0, if wanted, a port.

    Text after ``#`` and blank lines are left out. An address is IPv4, IPv6 or a host name. A file of DGL's, which has
    ``address`` or ``address port`` on each line, is read too: its ranks are in the order of lines.

    Args:
        path: The file.

    Returns:
        The machines in the order of ranks.

    Raises:
        ConfigError: The file cannot be read, or a line cannot be understood; the text names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # a byte order mark does not matter
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the ip_config file {path} cannot be read: {error}") from error
    lines = [
        _Line(f"{path}, line {number}: {line.strip()!r}", words)
        for number, line in enumerate(text.splitlines(), start=1)
        if (words := line.partition("#")[0].split())
    ]
    read = _dgl_machine if _is_of_dgl(lines) else _machine
    machines: dict[int, Machine] = {}
    addresses: dict[str, str] = {}
    for order, line in enumerate(lines):
        machine = read(line, order)
        where = line.label.rpartition(": ")[0]
        if machine.rank in machines:
            raise ConfigError(f"{where}: rank {machine.rank} is there already")
        if machine.address in addresses:
            raise ConfigError(
                f"{where}: {machine.address} is there already, on {addresses[machine.address]}; "
                "several processes of one machine are started by torchrun"
            )
        addresses[machine.address] = where.rpartition(", ")[2]
        machines[machine.rank] = machine
    if sorted(machines) != list(range(len(machines))) or not machines:
        ports = [rank for rank in machines if rank >= _LEAST_PORT]
        looks = f"; {ports[0]} looks like a port: {_ADVICE}" if ports else ""
        raise ConfigError(f"{path}: the ranks must be 0, 1, ... without gaps, not {sorted(machines)}{looks}")
    return [machines[rank] for rank in range(len(machines))]


def join_ip_config(path: str | Path, rank: int | None = None) -> None:
    """Set the environment variables by which ranks find each other, from a cluster file.

    Args:
        path: The file; see :func:`read_ip_config`.
        rank: This machine's rank; without it, the line is found by this machine's own addresses and name. It is needed
            where others know the machine by an address that is not its own, behind NAT.

    Raises:
        ConfigError: The file is wrong, or no line, or several, are this machine's.
    """
    machines = read_ip_config(path)
    own = ", ".join(sorted(own_addresses()))
    mine = [machine.rank for machine in machines if _is_here(machine.address)]
    if rank is None:
        if len(mine) != 1:
            found = f"{len(mine)} of its lines are" if mine else "none of its lines is"
            raise ConfigError(
                f"{path}: {found} this machine's, whose addresses are {own} and whose name is "
                f"{socket.gethostname()}; say which by --rank"
            )
        rank = mine[0]
    if not 0 <= rank < len(machines):
        raise ConfigError(f"{path} has ranks 0 to {len(machines) - 1}, not {rank}")
    address = machines[rank].address
    if mine and rank not in mine:
        raise ConfigError(
            f"{path}: rank {rank} is {address}, which is not this machine's; its own are {own}, on the line of rank "
            f"{mine[0]}"
        )
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(len(machines)),
        LOCAL_RANK="0",
        MASTER_ADDR=machines[0].address,
        MASTER_PORT=str(machines[0].port),
    )
    interface = next(filter(None, map(interface_of, resolved(address))), None)
    if interface is not None and not _is_loopback_of_a_name(address, interface):
        os.environ["GLOO_SOCKET_IFNAME"] = interface


def _is_here(address: str) -> bool:
    if not _is_ip(address) and address.lower() in _own_names():
        return True
    return not own_addresses().keys().isdisjoint(resolved(address))


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], socket.getfqdn().lower()}


def _is_loopback_of_a_name(address: str, interface: str) -> bool:
    """Tell whether a host's own name leads to its loopback address, as Debian has it: others know another."""
    return not _is_ip(address) and address != "localhost" and interface == interface_of("127.0.0.1")


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _is_of_dgl(lines: list[_Line]) -> bool:
    """Tell whether no line has a rank: each has an address alone, or a port behind it."""
    return len(lines) > 0 and all(
        len(words) == 1 or (len(words) == 2 and words[1].isdecimal() and int(words[1]) >= _LEAST_PORT)
        for _, words in lines
    )


def _machine(line: _Line, _order: int) -> Machine:
    label, words = line
    if len(words) not in {2, 3}:
        raise ConfigError(f"{label}: expected 'address rank' or 'address rank port'")
    address = _address(label, words[0])
    if not words[1].isdecimal():
        raise ConfigError(f"{label}: the rank {words[1]!r} is no whole number from 0")
    return Machine(address, int(words[1]), _port(label, words[2]) if len(words) == 3 else usual_port())


def _dgl_machine(line: _Line, order: int) -> Machine:
    label, words = line
    return Machine(_address(label, words[0]), order, _port(label, words[1]) if len(words) == 2 else usual_port())


def _address(label: str, word: str) -> str:
    bare = word[1:-1] if word.startswith("[") and word.endswith("]") else word
    if _is_ip(bare):
        return str(ipaddress.ip_address(bare))
    if not _HOST_NAME.fullmatch(word):
        raise ConfigError(f"{label}: {word!r} is no IPv4 or IPv6 address and no host name")
    return word


def _port(label: str, word: str) -> int:
    if not word.isdecimal() or not 0 < int(word) < 2**16:
        raise ConfigError(f"{label}: the port {word!r} is no number from 1 to 65535")
    return int(word)
