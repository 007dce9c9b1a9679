# ruff: noqa: D102  # a test's name is its sentence
"""The parts of the embedding and the tensor suite that are about :class:`distgnn.SupportsCheckpoint`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.distributed.communicator import barrier, communicator_of
from distgnn.errors import IdRangeError, RowsError, StoreClosedError
from distgnn.storage.capabilities import RuleState, SupportsCheckpoint
from distgnn.storage.protocols import StateSpec
from distgnn.storage.specs import TensorSpec
from distgnn.storage.toolkit.rule_states import rule_name
from distgnn.testing.embedding_updates import BATCHES, FLOATS, RULES, EmbeddingFixtures
from distgnn.testing.oracles import DictOfRows
from distgnn.testing.suite import BackendFixture, eighths
from distgnn.testing.witness_rules import CountUses

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import Backend, EmbeddingStore, TensorStore, UpdateRule
    from distgnn.storage.specs import EmbeddingSpec
    from distgnn.testing.embedding_updates import OpenEmbedding
    from distgnn.testing.tensor_store import OpenTensor


def saved(store: object) -> SupportsCheckpoint:
    """Take a store as one that can be saved, or skip the test."""
    if not isinstance(store, SupportsCheckpoint):
        pytest.skip("the store has no checkpoints")
    return store


def name_of(rule: UpdateRule) -> str:
    """Return what a rule's state is called."""
    return rule_name(type(rule))


def meet(backend: Backend) -> None:
    """Wait until every rank is here."""
    barrier(communicator_of(backend))


def take_out(store: SupportsCheckpoint, *, step: int = 2) -> list[tuple[int, dict[str, Tensor]]]:
    """Export this rank's rows in blocks."""
    own = store.own_rows
    blocks = [(first, store.export_rows(first, min(first + step, own.stop))) for first in own[::step]]
    return [(first, {name: rows.clone() for name, rows in block.items()}) for first, block in blocks]


def check_wrong_rows_are_refused(store: SupportsCheckpoint) -> None:
    """Assert that rows which do not fit are refused."""
    own = store.own_rows
    for first, last in ((own.start - 1, own.start), (own.start, own.stop + 1), (own.stop + 1, own.stop + 1)):
        with pytest.raises(IdRangeError, match=rf"rows {first} to {last} .*own, {own.start} to {own.stop}"):
            store.export_rows(first, last)
    rows = store.export_rows(own.start, own.stop)
    with pytest.raises(IdRangeError, match="are not within this rank's own"):
        store.import_rows(own.start + 1, rows)
    wrong: tuple[dict[str, Tensor], ...] = (
        {**rows, "more": rows["rows"]},
        {**rows, "rows": rows["rows"].double() if rows["rows"].dtype == torch.float32 else rows["rows"].float()},
        {**rows, "rows": rows["rows"][..., None]},
        {},
    )
    for each in wrong:
        with pytest.raises(RowsError, match="to be put back"):
            store.import_rows(own.start, each)


class EmbeddingCheckpointTests(EmbeddingFixtures):
    """Tables, their state, and their steps."""

    def test_the_rows_that_ranks_save_are_all_rows_once(self, backend: Backend, store: EmbeddingStore) -> None:
        own = saved(store).own_rows
        counts = backend.open_tensor(TensorSpec("saved_by_ranks", (7,), torch.int64))
        mine = torch.tensor(own, dtype=torch.int64, device=self.device)
        counts.write(mine, torch.ones_like(mine), accumulate=True)
        assert counts.read(torch.arange(7, device=self.device)).tolist() == [1] * 7
        counts.close()

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_exported_rows_are_those_that_are_looked_up(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, dtype: torch.dtype
    ) -> None:
        store = opening(replace(spec, dtype=dtype))
        table = self.table(store).cpu()
        for first, block in take_out(saved(store)):
            assert list(block) == ["rows"]
            assert torch.equal(block["rows"], table[first : first + len(block["rows"])])

    @pytest.mark.parametrize("rule", [*RULES.values(), CountUses()], ids=[*RULES, "CountUses"])
    def test_exported_state_is_that_of_a_dict_of_rows(
        self, store: EmbeddingStore, spec: EmbeddingSpec, rule: UpdateRule
    ) -> None:
        model = DictOfRows(spec)
        for start, batch in enumerate(BATCHES):
            ids = self.ids(*batch)
            self.apply(store, ids, self.gradients(ids, start), rule)
            model.apply_gradients(ids, self.gradients(ids, start), rule)
        specs = dict(rule.state(3))
        assert saved(store).rule_states() == {name_of(rule): RuleState(len(BATCHES), specs)}
        for first, block in take_out(saved(store)):
            assert sorted(block) == sorted(["rows", *(f"{name_of(rule)}/{name}" for name in specs)])
            for name, state in specs.items():
                expected = torch.cat([model.state(rule, first + at)[name] for at in range(len(block["rows"]))])
                found = block[f"{name_of(rule)}/{name}"]
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
                assert found.shape[1:] == (state.width,)

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_table_that_is_put_back_goes_on_as_the_one_it_was_taken_from(
        self, backend: Backend, opening: OpenEmbedding, spec: EmbeddingSpec, dtype: torch.dtype
    ) -> None:
        spec = replace(spec, dtype=dtype)
        first, second = (opening(replace(spec, name=f"{spec.name[:100]}.{one}", seed=one)) for one in (1, 2))
        rules = [*RULES.values(), CountUses()]
        for start, rule in enumerate(rules * 2):
            ids = self.ids(start % 7, 5, 1, 1)
            self.apply(first, ids, self.gradients(ids, start).to(dtype), rule)
        self.apply(second, self.ids(3), self.gradients(self.ids(3)).to(dtype), RULES["adam"])
        states, blocks = saved(first).rule_states(), take_out(saved(first))
        meet(backend)
        saved(second).reset_rule_states(states)
        for begin, block in blocks:
            saved(second).import_rows(begin, block)
            block["rows"].zero_()  # their memory is used for the next ones
        meet(backend)
        assert torch.equal(self.table(second), self.table(first))
        assert saved(second).rule_states() == states
        for start, rule in enumerate(rules):
            ids = self.ids(5, 1, start, 1)
            for store in (first, second):
                self.apply(store, ids, self.gradients(ids, start).to(dtype), rule)
        assert torch.equal(self.table(second), self.table(first))

    def test_reset_state_has_its_steps_and_initial_values(self, store: EmbeddingStore) -> None:
        ids, rule, other = self.ids(2, 5), CountUses(), RULES["adam"]
        for each in (rule, other):
            self.apply(store, ids, self.gradients(ids), each)
        saved(store).reset_rule_states({name_of(rule): RuleState(7, dict(rule.state(3)))})
        assert list(saved(store).rule_states()) == [name_of(rule)]
        self.apply(store, ids, self.gradients(ids), rule)
        assert store.lookup(ids).tolist() == [[1008.0] * 3] * 2
        self.apply(store, ids, self.gradients(ids), other)
        assert saved(store).rule_states()[name_of(other)].steps == 1

    def test_state_of_a_rule_that_nobody_knows_is_kept(self, backend: Backend, store: EmbeddingStore) -> None:
        states = {"elsewhere.Rule": RuleState(3, {"moment": StateSpec(2, 0.25)})}
        saved(store).reset_rule_states(states)
        meet(backend)
        for first, block in take_out(saved(store)):
            assert block["elsewhere.Rule/moment"].eq(0.25).all()
            saved(store).import_rows(first, {**block, "elsewhere.Rule/moment": block["elsewhere.Rule/moment"] + first})
        self.apply(store, self.ids(1), self.gradients(self.ids(1)), RULES["adam"])
        for first, block in take_out(saved(store)):
            assert block["elsewhere.Rule/moment"].eq(0.25 + first).all()
        assert saved(store).rule_states()["elsewhere.Rule"] == states["elsewhere.Rule"]

    def test_no_rows_can_be_taken_out_and_put_back(self, store: EmbeddingStore) -> None:
        start = saved(store).own_rows.start
        self.apply(store, self.ids(), self.gradients(self.ids()), CountUses())
        rows = saved(store).export_rows(start, start)
        assert {name: tuple(each.shape) for name, each in rows.items()} == {
            "rows": (0, 3),
            f"{name_of(CountUses())}/uses": (0, 2),
        }
        saved(store).import_rows(start, rows)

    def test_rows_that_do_not_fit_are_refused_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec
    ) -> None:
        check_wrong_rows_are_refused(saved(store))
        assert self.table(store).equal(DictOfRows(spec).table(self.device))

    def test_after_close_nothing_is_taken_out_or_put_back(self, store: EmbeddingStore) -> None:
        start = saved(store).own_rows.start
        rows = saved(store).export_rows(start, start)
        store.close()
        for call in (
            lambda: saved(store).export_rows(start, start),
            lambda: saved(store).import_rows(start, rows),
            lambda: saved(store).rule_states(),
            lambda: saved(store).reset_rule_states({}),
        ):
            with pytest.raises(StoreClosedError):
                call()


class TensorCheckpointTests(BackendFixture):
    """Tensors, which have no state."""

    def test_a_tensor_that_is_put_back_is_the_one_it_was_taken_from(
        self, backend: Backend, any_store: TensorStore, opening: OpenTensor, spec: TensorSpec
    ) -> None:
        values = (eighths(*any_store.shape, device=self.device) * 8).to(any_store.dtype)
        everything = torch.arange(7, device=self.device)
        any_store.write(*self.share(everything, values))
        blocks = take_out(saved(any_store))
        other = opening(TensorSpec(f"{spec.name[:100]}.other", any_store.shape, any_store.dtype))
        assert saved(other).rule_states() == {}
        saved(other).reset_rule_states({})
        meet(backend)
        for first, block in blocks:
            assert list(block) == ["rows"]
            saved(other).import_rows(first, block)
            block["rows"].zero_()  # their memory is used for the next ones
        meet(backend)
        assert torch.equal(other.read(everything), values)

    def test_rows_that_do_not_fit_a_tensor_are_refused(self, store: TensorStore) -> None:
        check_wrong_rows_are_refused(saved(store))
        assert not store.read(torch.arange(7, device=self.device)).any()
