"""The ports that a job may listen at."""

from __future__ import annotations

import os

from distgnn.errors import ConfigError

VARIABLE = "DISTGNN_PORTS"
DEFAULT_PORT = 29500


def allowed_ports() -> range:
    """Return the ports of ``DISTGNN_PORTS``, as ``29500-29600``; an empty range where it is not set.

    Raises:
        ConfigError: It is no range of ports.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return range(0)
    first, dash, last = (word.strip() for word in said.partition("-"))
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 2**16):
        raise ConfigError(f"{VARIABLE}={said} is no range of ports: write the first and the last, as in 29500-29600")
    return range(int(first), int(last) + 1)


def usual_port() -> int:
    """Return the port where ranks meet unless one is named: the first that is allowed, or torch's own default."""
    return next(iter(allowed_ports()), DEFAULT_PORT)


def ports_to_try(turn: int) -> list[int]:
    """Return the ports to listen at, in the order to try them; 0, which is any, where all are allowed.

    Args:
        turn: Which of those of a host begins where in the range, so that they seldom want the same one.
    """
    ports = allowed_ports()
    return [ports[(turn + later) % len(ports)] for later in range(len(ports))] or [0]
