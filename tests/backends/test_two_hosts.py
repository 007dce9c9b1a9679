"""Two hosts, as two network namespaces with one cable between them, each with shared memory of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from distgnn.data import generate_graph
from tests.founding.seed_snippets import COMMAND_LINES
from tests.jobs import slowness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.jobs import Job, StartJob

SCRIPT = "host_rank.py"
SCRIPT_OF_TRAINING = "distgnn_command.py"
EXAMPLE = "../../examples/distributed_gin_example.py"
CABLE = "cable"


class Hosts(NamedTuple):
    names: tuple[str, str]
    start_job: StartJob

    def start(self, *command: str, interface: str = CABLE, ranks: tuple[int, ...] = (0, 1)) -> Job:
        """Start a rank on each of the hosts that are numbered."""
        return self.start_job(
            *command,
            world_size=len(ranks),
            hosts=[self.names[host] for host in ranks],
            MASTER_ADDR="10.77.0.1",
            MASTER_PORT="29500",
            GLOO_SOCKET_IFNAME=interface,
            PATIENCE=f"{4 * slowness():.0f}",  # seconds, in which ranks of a busy machine answer too
        )


@pytest.fixture
def hosts(start_job: StartJob, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    names = (f"distgnn-{os.getpid()}-0", f"distgnn-{os.getpid()}-1")
    with ExitStack() as stack:
        try:
            subprocess.run(["unshare", "--mount", "true"], check=True, capture_output=True)
            for name in names:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)
            ip("-n", names[0], "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", names[1])
            for number, name in enumerate(names, start=1):
                ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", CABLE)
                ip("-n", name, "link", "set", CABLE, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", b"").decode().strip() or error
            pytest.skip(f"two hosts need root, iproute2 and unshare: {reason}")
        yield Hosts(names, start_job)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def test_two_hosts_hold_what_one_process_holds(hosts: Hosts, spread: str) -> None:
    job = hosts.start(SCRIPT, spread, "compare")
    assert job.codes(timeout=40) == [0, 0], job.last_error(0) + job.last_error(1)


@pytest.mark.parametrize("ranks", [(0, 1), (0, 0, 1, 1), (0, 1, 0, 1)], ids=str)
def test_each_host_holds_the_rows_that_a_partition_gives_its_ranks(
    hosts: Hosts, spread: str, ranks: tuple[int, ...]
) -> None:
    job = hosts.start(SCRIPT, spread, "place", ranks=ranks)
    assert job.codes(timeout=40) == [0] * len(ranks), [job.last_error(rank) for rank in range(len(ranks))]


@pytest.mark.parametrize("cut", ["down", pytest.param("silent", marks=pytest.mark.slow_faults)])
def test_a_cut_cable_is_a_lost_peer_on_both_sides(hosts: Hosts, spread: str, cut: str) -> None:
    job = hosts.start(SCRIPT, spread, "lookups")
    job.wait_for("working")
    if cut == "down":
        ip("-n", hosts.names[1], "link", "set", CABLE, "down")
    else:  # what one side sends goes to nobody, and it is not told so
        nobody = ["10.77.0.1", "lladdr", "02:00:00:00:00:99", "dev", CABLE, "nud", "permanent"]
        ip("-n", hosts.names[1], "neigh", "replace", *nobody)
    assert job.codes(timeout=20) == [1, 1]
    for rank, other in ((0, 1), (1, 0)):
        # The host whose interface is down may be told so at once.
        who = rf"(rank {other}|the DGL server that rank {other} started)"
        text = rf"PeerLostError: {who} is (silent for \d+ s|gone), noticed by rank {rank} in lookup of embedding"
        assert re.match(text, job.last_error(rank)), job.errors(rank)
        assert "closed" in job.output(rank)


def test_hosts_that_meet_but_cannot_connect_read_what_to_set(hosts: Hosts, spread: str) -> None:
    job = hosts.start(SCRIPT, spread, "start", interface="lo")
    assert job.codes(timeout=20) == [1, 1]
    for rank in (0, 1):
        error = job.last_error(rank)
        # The one that finds out first tells the other.
        assert re.match(r"PeerLostError: rank \d has met the other ranks, 2 in all, but cannot connect", error), error
        assert "GLOO_SOCKET_IFNAME=eth0, and let their firewalls pass all TCP ports between them" in error


def test_ports_are_of_the_range_that_is_given_and_gloos_of_that_which_the_kernel_gives(
    hosts: Hosts, spread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTGNN_PORTS", "29500-29539")
    for name in hosts.names:
        give = "echo 31000 31099 > /proc/sys/net/ipv4/ip_local_port_range"
        try:
            ip("netns", "exec", name, "sh", "-c", give)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the kernel's own range cannot be set: {error.stderr.decode()}")
    job = hosts.start(SCRIPT, spread, "ports")
    assert job.codes(timeout=40) == [0, 0], job.last_error(0) + job.last_error(1)
    for rank in range(2):
        own, servers = json.loads(job.output(rank).partition("closed")[0])
        assert own
        assert all(29500 <= port < 29540 or 31000 <= port < 31100 for port in own), own
        assert all(29500 <= port < 29540 for port in servers), servers
        assert len(servers) == (spread == "dgl")
        assert sum(port < 29540 for port in own) == (rank == 0) + (spread == "dgl")


def test_two_hosts_train_by_the_founding_cluster_file(hosts: Hosts, spread: str, tmp_path: Path) -> None:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    cluster = tmp_path / "ip_config.txt"
    cluster.write_text("10.77.0.1 0\n10.77.0.2 1\n")
    options = "--dataset MUTAG --use_dist_embedding --embedding_dim 64 --use_dist_tensor --hidden_channels 128 "
    options += f"--num_layers 3 --epochs 2 --dropout 0 --norm none --out {tmp_path}"
    # Each host finds its line by its own address, whatever the environment says.
    job = hosts.start(
        SCRIPT_OF_TRAINING, "train", *f"{options} --name two --backend {spread} --ip_config {cluster}".split()
    )
    alone = hosts.start_job(SCRIPT_OF_TRAINING, "train", *f"{options} --name one".split(), world_size=1)
    assert alone.codes(timeout=60) == [0], alone.errors(0)
    assert job.codes(timeout=60) == [0, 0], job.errors(0) + job.errors(1)
    losses = {
        name: [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    }
    assert len(losses["one"]) == 2
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-5)


def test_two_hosts_run_the_founding_command_line_of_a_large_graph(
    hosts: Hosts, spread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = generate_graph(300, 3000)
    np.savez(tmp_path / "edges.npz", edge_index=graph.edge_index)
    np.savez(tmp_path / "labels.npz", y=graph.y)
    (tmp_path / "ip_config.txt").write_text("10.77.0.1 0\n10.77.0.2 1\n")
    if spread != "pyg":  # which several ranks use where none is named
        monkeypatch.setenv("DISTGNN_BACKEND", spread)
    monkeypatch.chdir(tmp_path)
    options = f"{COMMAND_LINES[3]} --edges edges.npz --labels labels.npz --epochs 1".split()
    job = hosts.start(EXAMPLE, *options[2:])
    assert job.codes(timeout=60) == [0, 0], job.errors(0) + job.errors(1)
    assert f"CustomLargeGraph: GIN on backend {spread}" in job.output(0)
    assert "test accuracy" in job.output(0)
