from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.optim import Adam
from distgnn.storage.toolkit.rows import new_state, update_rows
from distgnn.storage.toolkit.threads import share_work

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def three_threads() -> Iterator[int]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(threads)


def test_every_part_is_done_once_by_threads_that_do_not_share_their_operations(three_threads: int) -> None:
    done: list[tuple[int, int]] = []
    meeting = threading.Barrier(three_threads, timeout=60)

    def work(part: int) -> None:
        if part < three_threads:
            meeting.wait()  # else one thread might do all of them
        done.append((part, torch.get_num_threads()))

    share_work(work, range(20))
    assert sorted(done) == [(part, 1) for part in range(20)]
    assert torch.get_num_threads() == three_threads


def test_few_parts_are_done_by_the_calling_thread(three_threads: int) -> None:
    threads: set[int] = set()
    share_work(lambda _: threads.add(threading.get_ident()), range(2 * three_threads - 1))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("number", [1, 20])
def test_an_error_of_a_part_reaches_the_caller_who_has_his_threads_again(three_threads: int, number: int) -> None:
    def fail(_: int) -> None:
        raise LookupError("no such row")

    with pytest.raises(LookupError, match="no such row"):
        share_work(fail, range(number))
    assert torch.get_num_threads() == three_threads


def test_inference_mode_holds_in_every_thread(three_threads: int) -> None:
    modes: list[bool] = []
    with torch.inference_mode():
        share_work(lambda _: modes.append(torch.is_inference_mode_enabled()), range(20))
    assert modes == [True] * 20
    assert three_threads == torch.get_num_threads()


def test_an_update_by_several_threads_gives_the_numbers_of_one(three_threads: int) -> None:
    ids = torch.randint(0, 30_000, (50_000,))
    gradients = torch.randn(50_000, 64)
    results = []
    for threads in (1, three_threads):
        torch.set_num_threads(threads)
        rule, rows = Adam(lr=0.1), torch.ones(30_000, 64)
        state = new_state(rule.state(64), 30_000, rows.device)
        for step in (1, 2):
            update_rows(rows, state, ids, gradients, rule, step)
        results.append((rows, state["exp_avg"], state["exp_avg_sq"]))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
