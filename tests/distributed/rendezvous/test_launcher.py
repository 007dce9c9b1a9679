"""What launchers tell a process, whole and in part, as their own manuals have it."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from distgnn import ConfigError
from distgnn.cli.app import main
from distgnn.distributed.rendezvous.join import listening
from distgnn.distributed.rendezvous.launcher import first_host, launched, unlaunched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "9"}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Begin without a launcher's variables, and put back what was there."""
    before = dict(os.environ)
    for name in before.keys() - unlaunched().keys():
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set and RANK is not: a launcher such as torchrun or srun sets both"),
        ({"RANK": "1"}, "RANK=1 is set and WORLD_SIZE is not: a launcher sets both; for one process unset RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set and MASTER_ADDR is not: export MASTER_ADDR, the addr"),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"},
            "WORLD_SIZE=2 is set and MASTER_PORT is not: export MASTER_PORT, a port that is free on a, as 29500",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "WORLD_SIZE=2 is set and MASTER_ADDR is not"),
        ({"RANK": "2", "WORLD_SIZE": "2", **HERE}, "the rank is 2 and WORLD_SIZE=2: ranks are 0 to 1"),
        ({"RANK": "1", "WORLD_SIZE": "1", **HERE}, "the rank is 1 and WORLD_SIZE=1: ranks are 0 to 0"),
        ({"RANK": "0", "WORLD_SIZE": "0", **HERE}, "WORLD_SIZE=0 is no whole number of at least 1"),
        ({"RANK": "0", "WORLD_SIZE": "-2", **HERE}, "WORLD_SIZE=-2 is no whole number of at least 1"),
        ({"RANK": "0", "WORLD_SIZE": "abc", **HERE}, "WORLD_SIZE=abc is no whole number of at least 1"),
        ({"RANK": "x", "WORLD_SIZE": "2", **HERE}, "RANK=x is no whole number of at least 0"),
        ({"RANK": "-1", "WORLD_SIZE": "2", **HERE}, "RANK=-1 is no whole number of at least 0"),
        ({"RANK": "0", "WORLD_SIZE": "2", **HERE, "MASTER_PORT": "x"}, "MASTER_PORT=x is no whole number"),
        ({"RANK": "0", "WORLD_SIZE": "2", **HERE, "MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"),
        (
            {"WORLD_SIZE": "4", "NODE_RANK": "1", "LOCAL_RANK": "0", **HERE},
            "NODE_RANK=1 and LOCAL_RANK=0 are set, and RANK is not, nor LOCAL_WORLD_SIZE",
        ),
        (
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            "SLURM_NTASKS=2 is set and MASTER_ADDR is not: export MASTER_ADDR",
        ),
        ({"SLURM_PROCID": "x", "SLURM_NTASKS": "2"}, "SLURM_PROCID=x is no whole number"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, r"OMPI_COMM_WORLD_RANK=1 is set, by mpirun \(Open MPI\), and nothing says how"),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE=4 is set and MASTER_ADDR is not",
        ),
        ({"PMIX_RANK": "0"}, "PMIX_RANK=0 is set, by a launcher by PMIx, and nothing says how many ranks there are"),
    ],
)
def test_half_an_environment_is_refused_by_what_is_missing(variables: dict[str, str], words: str) -> None:
    os.environ.update(variables)
    with pytest.raises(ConfigError, match=words):
        launched()


@pytest.mark.parametrize(
    ("variables", "rank", "size", "local", "address"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", **HERE}, 1, 2, True, "127.0.0.1"),
        ({"RANK": "1", "WORLD_SIZE": "2", **HERE, "MASTER_ADDR": "::1"}, 1, 2, True, "::1"),
        ({"RANK": "1", "WORLD_SIZE": "2", **HERE, "MASTER_ADDR": "nodeA"}, 1, 2, False, "nodeA"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **HERE, "MASTER_ADDR": "a"}, 1, 2, True, "a"),
        # Lightning's launcher of one node, and of two with what torchrun would add
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0", **HERE}, 1, 2, True, "127.0.0.1"),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "1", "LOCAL_WORLD_SIZE": "2", **HERE}, 3, 4, True, None),
        # srun: the step has 4 of the job's 9 tasks
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "4", "SLURM_NNODES": "1"}, 1, 4, True, "127.0.0.1"),
        ({**SRUN, "SLURM_NODELIST": "gpu7", "SLURM_STEP_NUM_TASKS": "4"}, 1, 4, True, "127.0.0.1"),
        ({**SRUN, "SLURM_NODELIST": "gpu[07-09]", "SLURM_NNODES": "3"}, 1, 9, False, "gpu07"),
        ({**SRUN, "SLURM_NODELIST": "a[1-2],b", "MASTER_ADDR": "b", "MASTER_PORT": "5"}, 1, 9, False, "b"),
        ({**SRUN, "WORLD_SIZE": "9", **HERE}, 1, 9, True, "127.0.0.1"),
        # Open MPI below SLURM: SLURM's variables are of the process that mpirun has on the node
        (
            {**SRUN, "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
            3,
            4,
            True,
            "127.0.0.1",
        ),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2", **HERE}, 0, 2, True, None),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, 1, 2, True, "127.0.0.1"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", **HERE, "MASTER_ADDR": "nodeA"}, 1, 2, False, "nodeA"),
    ],
)
def test_ranks_are_found_in_the_variables_of_their_launcher(
    variables: dict[str, str], rank: int, size: int, local: bool, address: str | None
) -> None:
    os.environ.update(variables)
    launch = launched()
    assert launch is not None
    assert (launch.rank, launch.world_size, launch.local) == (rank, size, local)
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(rank), str(size)), "as torchrun would tell others"
    assert address in {None, os.environ["MASTER_ADDR"]}
    assert 0 < int(os.environ["MASTER_PORT"]) < 32768
    again = launched()
    assert again is not None
    assert (again.rank, again.world_size) == (rank, size)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "", "RANK": " "},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "3"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process_is_alone(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    assert launched() is None


def test_jobs_of_one_cluster_meet_at_ports_of_their_own() -> None:
    ports = set()
    for job in range(50):
        os.environ.update({**SRUN, "SLURM_JOB_ID": str(job), "SLURM_NNODES": "1"})
        launched()
        ports.add(os.environ.pop("MASTER_PORT"))
        for name in ("RANK", "WORLD_SIZE"):
            del os.environ[name]
    assert len(ports) > 45


def test_jobs_meet_within_the_range_of_ports_that_is_given() -> None:
    os.environ.update({**SRUN, "SLURM_NNODES": "1", "DISTGNN_PORTS": "30000-30009"})
    ports = set()
    for job in range(50):
        os.environ["SLURM_JOB_ID"] = str(job)
        launched()
        ports.add(int(os.environ.pop("MASTER_PORT")))
        for name in ("RANK", "WORLD_SIZE"):
            del os.environ[name]
    assert ports == set(range(30000, 30010))
    os.environ.update({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})
    for name in SRUN:
        del os.environ[name]
    launched()
    assert os.environ["MASTER_PORT"] == "30000"


@pytest.mark.parametrize("said", ["x", "5-", "-5", "0-5", "9-8", "29500-70000", "1-2-3", "29500,29501"])
def test_a_range_of_ports_that_is_none_is_refused(said: str) -> None:
    os.environ.update({"RANK": "1", "WORLD_SIZE": "2", **HERE, "DISTGNN_PORTS": said})
    with pytest.raises(ConfigError, match="is no range of ports: write the first and the last, as in 29500-29600"):
        launched()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[1-3]", "node1"),
        ("node[003,005-009],x", "node003"),
        ("a-1.dom,b[1-2]", "a-1.dom"),
        ("rack[1-2]node[07-08],z", "rack1node07"),
    ],
)
def test_the_first_of_slurms_nodes_is_found(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize("backend", ["pyg", "memory"])
@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"PMIX_RANK": "1"}])
def test_the_command_line_says_it_in_one_line(
    variables: dict[str, str],
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["distgnn", "train", "--dataset", "CustomLargeGraph", "--num-nodes", "20", "--num-edges", "40"]
    command += ["--epochs", "1", "--backend", backend, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    os.environ.update(variables)
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2, error
    assert [line.startswith("error: ") for line in error.splitlines() if "Warning" not in line] == [True]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "local", "address"),
    [
        ("127.0.0.1", False, "127.0.0.1"),
        ("127.0.1.1", False, "127.0.1.1"),
        ("localhost", False, "127.0.0.1"),
        ("::1", False, "::1"),
        ("own-name", True, "127.0.1.1"),
        ("own-name", False, "0.0.0.0"),
    ],
)
def test_rank_0_listens_at_its_address_and_where_others_know_another_at_all(
    host: str, local: bool, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian's /etc/hosts has "127.0.1.1 own-name" on that machine alone.
    known = {"own-name": "127.0.1.1"}
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real(known.get(host, host), *rest, **more))
    try:
        with listening(host, 0, local=local) as listener:
            assert listener.getsockname()[0] == address
    except OSError as error:
        if ":" not in host:
            raise
        pytest.skip(f"no IPv6 here: {error}")


def test_a_name_that_nobody_knows_is_no_address() -> None:
    with pytest.raises(OSError, match=r"the name 'nowhere\.invalid' is not known here"):
        listening("nowhere.invalid", 0, local=False)
