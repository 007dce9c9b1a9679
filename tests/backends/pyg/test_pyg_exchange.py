from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.jobs import StartJob


@pytest.mark.parametrize("hosts", ["aaa", "abbc", "aba"])
def test_ranks_on_any_hosts_hold_what_one_process_holds(start_job: StartJob, hosts: str) -> None:
    run(start_job, hosts)


def test_a_row_goes_once_to_another_host(start_job: StartJob) -> None:
    ratios = json.loads(run(start_job, "abc"))
    sys.stdout.write(f"bytes sent over bytes needed, in batches of 65,536 ids: {ratios}\n")
    assert ratios["uniform"] <= 1.1


def run(start_job: StartJob, hosts: str) -> str:
    """Run a rank a letter, those of one letter as on one host, and return what rank 0 printed."""
    job = start_job("exchanging_rank.py", "pyg", "30", hosts, world_size=len(hosts))
    codes = job.codes(timeout=100)
    assert not any(codes), [job.last_error(rank) for rank in range(len(hosts))]
    return job.output(0)
