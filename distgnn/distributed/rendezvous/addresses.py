"""Addresses of this host, of names, and towards others."""

from __future__ import annotations

import ipaddress
import os
import socket
import uuid
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"


def own_addresses() -> dict[str, str]:
    """Return this machine's IP addresses, each with the name of its interface."""
    return {
        address.address.partition("%")[0]: interface
        for interface, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family in {socket.AF_INET, socket.AF_INET6}
    }


def interface_of(address: str) -> str | None:
    """Return the interface that has an address of this machine; None where it is another's."""
    own = own_addresses()
    if address not in own and is_loopback(address):  # the interface answers at all of 127.0.0.0/8
        return own.get(LOOPBACK)
    return own.get(address)


def resolved(host: str) -> list[str]:
    """Return the addresses that a name has here, IPv4 first; none where it is not known."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    order = sorted(found, key=lambda one: one[0] != socket.AF_INET)
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in order))


def is_loopback(host: str) -> bool:
    """Tell whether an address, or ``localhost``, is the loopback's. A name that merely leads there here is not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def facing(host: str) -> str:
    """Return this host's address on the way to another, the loopback's where there is no way; nothing is sent."""
    for address in resolved(host):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            try:
                way.connect((address, 1))
            except OSError:
                continue
            return str(way.getsockname()[0])
    return LOOPBACK


def name_of_host() -> str:
    """Name what processes must have in common to reach each other's loopback: the kernel and the network namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()}/{uuid.getnode():x}"


def outward_address(host: str) -> str:
    """Return the address of this host that others may reach it at.

    Args:
        host: Another host, as this one knows it; ``GLOO_SOCKET_IFNAME`` goes before the way there.
    """
    address = facing(host)
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "").partition(",")[0]
    named = [one for one, its in own_addresses().items() if its == interface]
    return address if address in named or not named else named[0]
