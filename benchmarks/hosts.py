"""Two hosts on one machine: network namespaces with a cable between them. Needs root and iproute2."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

CABLE = "cable"
ADDRESSES = ("10.78.0.1", "10.78.0.2")


@contextmanager
def two_hosts(rate: str | None = None) -> Iterator[list[list[str]]]:
    """Make them, yield for each the command that runs another command there, and remove them.

    Args:
        rate: What the cable carries in each direction, as ``tc`` writes it (``1gbit``); None is as fast as it can.

    Raises:
        OSError: They cannot be made here; the text says why.
    """
    names = [f"bench-{os.getpid()}-{number}" for number in range(2)]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
        _ip("-n", names[0], "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            _ip("-n", name, "link", "set", CABLE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            if rate is not None:
                limit = ["tc", "qdisc", "add", "dev", CABLE, "root", "tbf", "rate", rate]
                _ip("netns", "exec", name, *limit, "burst", "256kb", "latency", "50ms")
        # Hosts share no shared memory: DGL's names in /dev/shm are the same on all of them.
        alone = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
        yield [["ip", "netns", "exec", name, *alone] for name in names]


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S603, S607
    except subprocess.CalledProcessError as error:
        raise OSError(f"ip {' '.join(arguments)}: {error.stderr.decode().strip()}") from error
