from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.backends.conftest import StartJob


def test_three_ranks_hold_what_one_process_holds(start_job: StartJob) -> None:
    job = start_job("exchanging_rank.py", "dgl", "60", world_size=3)
    codes = job.codes(timeout=100)
    assert codes == [0, 0, 0], next(job.errors(rank)[-3000:] for rank, code in enumerate(codes) if code)
