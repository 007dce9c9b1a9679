"""Tests of one rank, on several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.jobs import StartJob

KITS = ("dgl_conforms", "pyg_conforms", "sockets_conform")
TRAINING = ("halo", "halo_stale", "halo_traffic", "listens", "sampling", "trains_like_memory")
# What has more to go wrong with more ranks: rows of many peers, parts of every shape, ranks that have nothing to do.
OF_MANY = (
    "halo::test_training_over_parts_equals_training_on_the_whole_graph",
    "halo::test_it_does_for_every_shape_of_part",
    "halo::test_it_does_on_graphs_that_are_published[pyg-Cora]",
    "halo::test_it_does_on_graphs_that_are_published[dgl-Cora]",
    "halo_stale::test_stale_rows_serve_so_many_steps_and_evaluation_never",
    "halo_traffic::test_a_layer_moves_the_rows_of_its_halo_and_no_more",
    "halo_traffic::test_tables_lie_where_parts_are_so_that_a_lookup_moves_the_rows_of_the_halo_alone",
    "sampling",
    "trains_like_memory::test_the_timeline_tells_who_waits_for_whom",
    "trains_like_memory::test_gin_on_a_part_of_a_graph_on_each_rank[pyg-batch_norm]",
    "trains_like_memory::test_gin_on_a_part_of_a_graph_on_each_rank[dgl-batch_norm]",
    "trains_like_memory::test_a_batch_with_fewer_graphs_than_ranks_does_not_stop_the_others",
    "trains_like_memory::test_gine_on_batches_of_sampled_neighborhoods",
    "trains_like_memory::test_ranks_without_nodes_do_not_stop_the_others",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("world_size", "files"),
    [
        (
            2,
            (
                *KITS,
                *TRAINING,
                "hetero",
                "history",
                "inference",
                "stored_embedding",
                "summed_gradients",
                "sync_batch_norm",
            ),
        ),
        (3, ("pyg_conforms", "summed_gradients")),
        (4, KITS),
        (4, OF_MANY),
    ],
    ids=["all on two", "a kit on three", "kits on four", "training on four"],
)
def test_the_tests_of_one_rank_pass_on_several(start_job: StartJob, world_size: int, files: tuple[str, ...]) -> None:
    """Each rank runs many files, and is forked: to import what they need takes longer than most tests."""
    here = Path(__file__).parent
    named = [(file, colons + test) for file, colons, test in (each.partition("::") for each in files)]
    tests = [f"{here / f'test_{file}.py'}{test}" for file, test in named]
    job = start_job("pytest_rank.py", *tests, world_size=world_size)
    codes = job.codes(timeout=560)
    said = [job.output(rank)[-6000:] for rank in range(world_size)]
    assert codes == [0] * world_size, "\n".join(f"rank {rank} printed:\n{one}" for rank, one in enumerate(said))
    assert all(" passed" in one for one in said)
