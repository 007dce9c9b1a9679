from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.backends.conftest import StartJob


def test_three_ranks_hold_what_one_process_holds_and_send_each_row_once(start_job: StartJob) -> None:
    job = start_job("exchanging_rank.py", "pyg", "40", world_size=3)
    codes = job.codes(timeout=100)
    assert codes == [0, 0, 0], next(job.errors(rank)[-3000:] for rank, code in enumerate(codes) if code)
    ratios = json.loads(job.output(0))
    sys.stdout.write(f"bytes sent over bytes needed, in batches of 65,536 ids: {ratios}\n")
    assert ratios["uniform"] <= 1.1
