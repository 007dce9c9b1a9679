"""The backend of a run, its ranks and their threads."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003  # the command line reads annotations
from dataclasses import dataclass
from typing import ClassVar

from distgnn.errors import ConfigError
from distgnn.storage.options import read_option
from distgnn.train.options.setting import setting


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The backend of a run, its ranks and their threads.

    Args:
        backend: Where stores are opened; None is what ``DISTGNN_BACKEND`` names or else ``memory``, and ``pyg`` where a
            launcher or ``ip_config`` makes this process one of several.
        ip_config: A cluster file, see :func:`distgnn.train.session.read_ip_config`; None is one machine, or torchrun's.
        rank: This machine's rank in it; None finds it by this machine's addresses.
        secret_file: A file with a secret of the job, see :mod:`distgnn.distributed.rendezvous.authentication`; None is
            ``DISTGNN_SECRET``'s, or none.
        timeout: Seconds that a rank waits for another, for backends that take it; None is the backend's own.
        option: What else the backend is opened with, each as ``"NAME=VALUE"``; None is nothing.
        threads: How many threads a rank computes with; None is what ``OMP_NUM_THREADS`` says, or else by the work of a
            step and the cores that are free.
    """

    panel: ClassVar[str] = "Stores and ranks"

    backend: str | None = setting(
        None,
        "Where stores live; see: distgnn backends. \\[default: memory, with several ranks pyg]",
        envvar="DISTGNN_BACKEND",
    )
    ip_config: str | None = setting(None, "Cluster file: 'address rank' a line. Not needed under torchrun.")
    rank: int | None = setting(None, "This machine's rank in it. \\[default: found by its addresses]")
    secret_file: str | None = setting(
        None, "File of mode 600 with a secret that every rank must have to join.", envvar="DISTGNN_SECRET_FILE"
    )
    timeout: float | None = setting(None, "Seconds that a rank waits for another. \\[default: the backend's]")
    option: Sequence[str] | None = setting(
        None, "Open the backend with it; may be given several times.", short="-o", metavar="NAME=VALUE"
    )
    threads: int | None = setting(
        None,
        "Threads of a rank. \\[default: OMP_NUM_THREADS, else by the work of a step and the cores that are free]",
        least=1,
    )

    def check_job(self) -> None:
        """Refuse times and options of the backend that cannot be."""
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise ConfigError(f"timeout must be finite and above 0, not {self.timeout}")
        _ = self.backend_options

    @property
    def backend_options(self) -> dict[str, object]:
        """The options that the backend is opened with."""
        options = dict(map(read_option, self.option or ()))
        if self.timeout is not None and options.setdefault("timeout", self.timeout) != self.timeout:
            raise ConfigError(f"timeout is {self.timeout} and in option {options['timeout']}: give it once")
        return options
