from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from distgnn.testing import run_on_ranks

if TYPE_CHECKING:
    from tests.jobs import StartJob


def test_three_ranks_hold_what_one_process_holds(start_job: StartJob) -> None:
    # Ranks that share no memory have a server each, as on three hosts.
    apart = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0
    job = start_job("exchanging_rank.py", "dgl", "40", world_size=3, hosts=[""] * 3 if apart else ())
    codes = job.codes(timeout=100)
    assert codes == [0, 0, 0], next(job.errors(rank)[-3000:] for rank, code in enumerate(codes) if code)


def test_dgls_own_optimizer_trains_the_rows_of_two_ranks() -> None:
    run_on_ranks(Path(__file__).with_name("test_dgl_own_optimizer.py"), 2, timeout=100)
