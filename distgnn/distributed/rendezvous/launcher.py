"""A launcher's variables: torchrun, srun, mpirun, Lightning, or by hand."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from distgnn.distributed.rendezvous.addresses import LOOPBACK, is_loopback
from distgnn.distributed.rendezvous.ports import allowed_ports, usual_port
from distgnn.errors import ConfigError

# Who starts ranks, and its variables for a rank, for how many there are, and for how many are on this host. Open MPI
# and its like come before SLURM, whose variables are those of the process that starts ranks on a node then.
_LAUNCHERS = {
    "mpirun (Open MPI)": ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "mpirun (MVAPICH)": ("MV2_COMM_WORLD_RANK", ("MV2_COMM_WORLD_SIZE",), "MV2_COMM_WORLD_LOCAL_SIZE"),
    "mpiexec (PMI)": ("PMI_RANK", ("PMI_SIZE",), "MPI_LOCALNRANKS"),
    "srun (SLURM)": ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), ""),
    "a launcher by PMIx": ("PMIX_RANK", (), ""),
}
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_JOBS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
_PORTS = range(20000, 30000)  # below those that the kernel gives to anybody


@dataclass(frozen=True)
class Launch:
    """A process that was started as one of several.

    Args:
        rank: Its rank.
        world_size: How many there are, at least 2.
        local: Whether all of them are known to run on this host.
        by: The variable that told the world size, with its value.
    """

    rank: int
    world_size: int
    local: bool
    by: str


def launched() -> Launch | None:
    """Read the variables of a launcher; None where this process is alone.

    Those of SLURM, Open MPI, MVAPICH and PMI are written to ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
    ``MASTER_PORT`` too, where torch's own launcher leaves them.

    Raises:
        ConfigError: They are not whole, or cannot be; says which, and what to set.
    """
    if _value("WORLD_SIZE"):
        size, rank, by = _number("WORLD_SIZE", least=1), 0, "WORLD_SIZE"
        if _value("RANK"):
            rank = _number("RANK")
        elif size > 1:
            rank = _derived_rank(size)
    elif _value("RANK"):
        raise ConfigError(
            f"RANK={_value('RANK')} is set and WORLD_SIZE is not: a launcher sets both; for one process unset RANK"
        )
    else:
        found = _by_other_launchers()
        if found is None:
            return None
        rank, size, by = found
    if rank >= size:
        raise ConfigError(f"the rank is {rank} and {by}={size}: ranks are 0 to {size - 1}")
    if size == 1:
        return None
    local = _is_local(size)
    _set_address(size, by, local=local)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.setdefault("LOCAL_RANK", next(filter(None, map(_value, _LOCAL_RANKS)), "0"))
    return Launch(rank, size, local or is_loopback(_value("MASTER_ADDR")), f"{by}={size}")


def launched_size() -> int:
    """Return how many processes a launcher started; 1 without one.

    Raises:
        ConfigError: As :func:`launched`.
    """
    launch = launched()
    return 1 if launch is None else launch.world_size


def unlaunched() -> dict[str, str]:
    """Return the environment of a process that no launcher has started, but which is otherwise as this one's."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_", "SLURM_", "OMPI_", "MV2_", "PMI")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def first_host(nodes: str) -> str:
    """Return the first host of a list as SLURM writes it: ``gpu[01-04,07],login1`` is ``gpu01``."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])


def _by_other_launchers() -> tuple[int, int, str] | None:
    for launcher, (rank, sizes, _) in _LAUNCHERS.items():
        if not _value(rank):
            continue
        size = next((name for name in sizes if _value(name)), None)
        if size is not None:
            return _number(rank), _number(size, least=1), size
        if rank != "SLURM_PROCID":  # SLURM sets it in every job, and the number only where one was asked for
            raise ConfigError(
                f"{rank}={_value(rank)} is set, by {launcher}, and nothing says how many ranks there are: export "
                "WORLD_SIZE, and RANK, MASTER_ADDR and MASTER_PORT with it"
            )
    return None


def _derived_rank(size: int) -> int:
    """Return the rank where ``WORLD_SIZE`` alone is set, as in scripts for SLURM and by Lightning's launcher."""
    for rank, *_ in _LAUNCHERS.values():
        if _value(rank):
            return _number(rank)
    if not _value("LOCAL_RANK"):
        raise ConfigError(
            f"WORLD_SIZE={size} is set and RANK is not: a launcher such as torchrun or srun sets both; for one process "
            "unset WORLD_SIZE"
        )
    node = next((name for name in ("NODE_RANK", "GROUP_RANK") if _value(name)), None)
    if node is None or _number(node) == 0:
        return _number("LOCAL_RANK")
    if not _value("LOCAL_WORLD_SIZE"):
        raise ConfigError(
            f"WORLD_SIZE={size}, {node}={_value(node)} and LOCAL_RANK={_value('LOCAL_RANK')} are set, and RANK is not, "
            "nor LOCAL_WORLD_SIZE, from which it would follow: export one of them"
        )
    return _number(node) * _number("LOCAL_WORLD_SIZE", least=1) + _number("LOCAL_RANK")


def _is_local(size: int) -> bool:
    """Tell whether the launcher says that all its ranks are on this host."""
    counts = ("LOCAL_WORLD_SIZE", *(local for *_, local in _LAUNCHERS.values() if local))
    if any(_value(name) == str(size) for name in counts):
        return True
    if not _value("SLURM_PROCID") or any(map(_value, counts)):
        return False
    nodes = _value("SLURM_STEP_NUM_NODES") or _value("SLURM_NNODES") or _value("SLURM_JOB_NUM_NODES")
    return nodes == "1" or (not nodes and bool(re.fullmatch(r"[\w.-]+", _nodes())))


def _nodes() -> str:
    return _value("SLURM_STEP_NODELIST") or _value("SLURM_JOB_NODELIST") or _value("SLURM_NODELIST")


def _set_address(size: int, by: str, *, local: bool) -> None:
    """Set where ranks meet, if nobody has; who sets ``WORLD_SIZE`` by hand says that too."""
    standard = by == "WORLD_SIZE" and not _value("SLURM_PROCID")
    allowed = allowed_ports()
    if not _value("MASTER_ADDR"):
        if standard or not (local or _nodes()):
            raise ConfigError(
                f"{by}={size} is set and MASTER_ADDR is not: export MASTER_ADDR, the address of rank 0's machine "
                "(127.0.0.1 where all ranks are on one), and MASTER_PORT, a port that is free there"
            )
        os.environ["MASTER_ADDR"] = LOOPBACK if local else first_host(_nodes())
    if not _value("MASTER_PORT"):
        if standard and not allowed:
            raise ConfigError(
                f"{by}={size} is set and MASTER_PORT is not: export MASTER_PORT, a port that is free on "
                f"{_value('MASTER_ADDR')}, as {usual_port()}"
            )
        job = "/".join(map(_value, _JOBS)).strip("/")
        digest = int.from_bytes(hashlib.sha256(job.encode()).digest()[:4], "big")
        ports = allowed or _PORTS
        os.environ["MASTER_PORT"] = str(ports[digest % len(ports)] if job and not standard else usual_port())
    if not 0 < _number("MASTER_PORT") < 2**16:
        raise ConfigError(f"MASTER_PORT={_value('MASTER_PORT')} is no port: ports are 1 to 65535")


def _number(name: str, *, least: int = 0) -> int:
    value = _value(name)
    if not value.isdecimal() or int(value) < least:
        raise ConfigError(f"{name}={value} is no whole number of at least {least}")
    return int(value)


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()
