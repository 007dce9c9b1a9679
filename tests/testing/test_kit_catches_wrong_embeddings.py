"""Embedding stores with one fault each, and the tests of the kit that must fail on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.backends.memory import MemoryBackend, MemoryEmbeddingStore
from distgnn.errors import EmbeddingSizeError, StoreError
from distgnn.storage.capabilities import RuleState
from distgnn.storage.specs import PartitionBook
from distgnn.storage.toolkit.initial import initial_rows, initial_rows_of
from distgnn.storage.toolkit.rows import new_state, sum_by_id
from distgnn.storage.toolkit.rule_states import rule_name
from distgnn.testing.suite import BackendFixture

if TYPE_CHECKING:
    from conftest import Failures
    from torch import Tensor

    from distgnn import EmbeddingSpec, UpdateRule


class LookupGivesViews(MemoryEmbeddingStore):
    def lookup(self, ids: Tensor) -> Tensor:
        rows = super().lookup(ids)
        start = int(ids[0]) if ids.numel() else 0
        part = self._rows[start : start + ids.numel()]
        return part if torch.equal(part, rows) else rows


class LookupForgetsTheOrder(MemoryEmbeddingStore):
    def lookup(self, ids: Tensor) -> Tensor:
        return super().lookup(ids.sort().values)


class LookupNeedsIds(MemoryEmbeddingStore):
    def lookup(self, ids: Tensor) -> Tensor:
        self.spec.check_ids(ids, self._device)
        return torch.stack([super(LookupNeedsIds, self).lookup(one)[0] for one in ids.split(1)])


class LookupConvertsIds(MemoryEmbeddingStore):
    def lookup(self, ids: Tensor) -> Tensor:
        return super().lookup(ids.long().flatten())


class LookupWrapsNegativeIds(MemoryEmbeddingStore):
    def lookup(self, ids: Tensor) -> Tensor:
        return super().lookup(torch.where(ids < 0, ids + self.num_embeddings, ids))


class LookupIsOffByOne(MemoryEmbeddingStore):
    def lookup(self, ids: Tensor) -> Tensor:
        return super().lookup(torch.where(ids == self.num_embeddings, 0, ids))


class InitialRowsDependOnTheSize(MemoryEmbeddingStore):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        seed = spec.seed + spec.num_embeddings // 128
        self._rows = initial_rows(replace(spec, seed=seed), 0, spec.num_embeddings).to(device)


class InitialRowsIgnoreTheName(MemoryEmbeddingStore):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self._rows = initial_rows(replace(spec, name="rows"), 0, spec.num_embeddings).to(device)


class CloseDoesNothing(MemoryEmbeddingStore):
    def close(self) -> None:
        pass


class Checked(MemoryEmbeddingStore):
    """Checks as it should before what its subclasses do wrong."""

    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        if not self.closed:
            self.spec.check_gradients(ids, gradients, self._device)
        self.apply_checked(ids, gradients, rule)

    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        super().apply_gradients(ids, gradients, rule)


class LastGradientWins(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        last = [*{row: position for position, row in enumerate(ids.tolist())}.values()]
        super().apply_checked(ids[last], gradients[last], rule)


class GradientsAreAveraged(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        super().apply_checked(ids, (gradients / ids.bincount()[ids, None]).to(gradients.dtype), rule)


class RuleIsAppliedForEachDuplicate(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        for one, gradient in zip(ids.split(1), gradients.split(1), strict=True):
            super().apply_checked(one, gradient, rule)


class EmptyCallsAreNoSteps(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        if ids.numel() or self.closed:
            super().apply_checked(ids, gradients, rule)


class StateIsForgotten(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        self.reset_rule_states(self._kept)
        super().apply_checked(ids, gradients, rule)


class EveryRateHasItsOwnState(Checked):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self.all = {}

    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        self._state, self._kept = self.all.setdefault(rule, ({}, {}))
        super().apply_checked(ids, gradients, rule)


class AllRulesShareOneState(Checked):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self.all = {}

    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        specs = rule.state(self.embedding_dim)
        self.all = {**new_state(specs, self.num_embeddings, self._device), **self.all}
        self._kept.setdefault(rule_name(rule), RuleState(0, specs))
        self._state[rule_name(rule)] = {name: self.all[name] for name in specs}
        super().apply_checked(ids, gradients, rule)


class AllRulesShareOneCount(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        most = max((state.steps for state in self._kept.values()), default=0)
        super().apply_checked(ids[:0], gradients[:0], rule)  # makes the rule's state
        self._kept[rule_name(rule)] = self._kept[rule_name(rule)]._replace(steps=most)
        super().apply_checked(ids, gradients, rule)


class UntouchedRowsAreUpdated(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        every = torch.arange(self.num_embeddings, device=self._device)
        zeros = gradients.new_zeros(self.num_embeddings, self.embedding_dim)
        super().apply_checked(torch.cat([ids, every]), torch.cat([gradients, zeros]), rule)


class HalvesAreSummedAsHalves(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        sums = {}
        for row, gradient in zip(ids.tolist(), gradients.to(self.spec.dtype), strict=True):
            sums[row] = sums.get(row, 0) + gradient
        super().apply_checked(torch.tensor([*sums], device=self._device), torch.stack([*sums.values()]), rule)


def update_naively(store: Checked, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
    kept = store._state[rule_name(rule)]
    rows, state = store._rows[ids], {name: values[ids] for name, values in kept.items()}
    rule.update(rows, state, gradients, store._kept[rule_name(rule)].steps)
    store._rows[ids] = rows
    for name, values in state.items():
        kept[name][ids] = values


class HalvesAreUpdatedAsHalves(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        super().apply_checked(ids[:0], gradients[:0], rule)
        distinct, sums = sum_by_id(ids, gradients)
        update_naively(self, distinct, sums.to(self.spec.dtype), rule)


class GradientsAreOverwritten(Checked):
    def apply_checked(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        if ids.unique().numel() < ids.numel():
            super().apply_checked(ids, gradients, rule)
        else:
            super().apply_checked(ids[:0], gradients[:0], rule)
            update_naively(self, ids, gradients, rule)


class NaNIsMadeZero(MemoryEmbeddingStore):
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        super().apply_gradients(ids, gradients.nan_to_num() if gradients.is_floating_point() else gradients, rule)


class GradientsAreBroadcast(MemoryEmbeddingStore):
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        rows = (ids.numel(), self.embedding_dim)
        super().apply_gradients(ids, gradients.expand(rows) if gradients.shape == (1, 3) else gradients, rule)


class GradientsAreConverted(MemoryEmbeddingStore):
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        super().apply_gradients(ids, gradients.to(self.spec.dtype), rule)


class GoodIdsOfABadCallAreUpdated(MemoryEmbeddingStore):
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        try:
            super().apply_gradients(ids, gradients, rule)
        except EmbeddingSizeError:
            good = (ids >= 0) & (ids < self.num_embeddings)
            super().apply_gradients(ids[good], gradients[good], rule)
            raise


class RefusedCallsAreSteps(MemoryEmbeddingStore):
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        try:
            super().apply_gradients(ids, gradients, rule)
        except StoreError:
            none = torch.empty(0, dtype=torch.int64, device=self._device)
            self.update(none, self.gather(none), rule)
            raise


class OneRowIsNobodys(MemoryEmbeddingStore):
    @property
    def own_rows(self) -> range:
        return range(1, self.num_embeddings)

    @own_rows.setter
    def own_rows(self, rows: range) -> None:
        pass


class ExportsInitialRows(MemoryEmbeddingStore):
    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        return {**super().export_rows(first, last), "rows": initial_rows(self.spec, first, last)}


class ExportsNoState(MemoryEmbeddingStore):
    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        return {"rows": super().export_rows(first, last)["rows"]}


class StepsAreNotPutBack(MemoryEmbeddingStore):
    def reset_rule_states(self, states: dict[str, RuleState]) -> None:
        super().reset_rule_states({rule: state._replace(steps=0) for rule, state in states.items()})


class StateIsNotPutBack(MemoryEmbeddingStore):
    def import_rows(self, first: int, rows: dict[str, Tensor]) -> None:
        kept = {name: values.clone() for name, values in self.export_rows(first, first + len(rows["rows"])).items()}
        super().import_rows(first, {**kept, "rows": rows["rows"]})


class OldStateStays(MemoryEmbeddingStore):
    def reset_rule_states(self, states: dict[str, RuleState]) -> None:
        super().reset_rule_states({**self.rule_states(), **states})


class OnlyKnownRulesAreKept(MemoryEmbeddingStore):
    def reset_rule_states(self, states: dict[str, RuleState]) -> None:
        super().reset_rule_states({rule: state for rule, state in states.items() if "distgnn" in rule})


class GrowthForgetsState(MemoryEmbeddingStore):
    def resize(self, num_embeddings: int) -> None:
        super().resize(num_embeddings)
        self.reset_rule_states(self.rule_states())


class NewRowsAreZeros(MemoryEmbeddingStore):
    def resize(self, num_embeddings: int) -> None:
        before = self.num_embeddings
        super().resize(num_embeddings)
        self._rows[before:] = 0


class ForgetsItsBook(MemoryEmbeddingStore):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(replace(spec, partition=None), device)


class Placed(MemoryEmbeddingStore):
    """Has its rows by a book, and nothing wrong."""

    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        self.partition = spec.partition or PartitionBook.even(spec.num_embeddings, 1)
        super().__init__(spec, device)
        self._rows = initial_rows_of(spec, self.partition.ids(0, spec.num_embeddings))

    def gather(self, positions: Tensor) -> Tensor:
        return super().gather(self.partition.places(positions))

    def update(self, positions: Tensor, gradients: Tensor, rule: UpdateRule, places: Tensor | None = None) -> None:
        super().update(self.partition.places(positions), gradients, rule, places)


class LooksUpByPlace(Placed):
    def gather(self, positions: Tensor) -> Tensor:
        return MemoryEmbeddingStore.gather(self, positions)


class UpdatesByPlace(Placed):
    def update(self, positions: Tensor, gradients: Tensor, rule: UpdateRule, places: Tensor | None = None) -> None:
        MemoryEmbeddingStore.update(self, positions, gradients, rule, places)


class InitialRowsGoByPlace(Placed):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self._rows = initial_rows(spec, 0, spec.num_embeddings)


class SaysPlacesAndMeansIds(MemoryEmbeddingStore):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self.partition = spec.partition or PartitionBook.even(spec.num_embeddings, 1)


class IgnoresTheBook(MemoryEmbeddingStore):
    """On the first of two ranks, the rows of the even book."""

    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self.partition, self.own_rows = PartitionBook.even(spec.num_embeddings, 2), range(spec.num_embeddings // 2)


class SaysTheBookAndIgnoresIt(IgnoresTheBook):
    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self.partition = spec.partition or self.partition


CAUGHT_BY = {
    ForgetsItsBook: "test_a_table_is_attached_to_by_its_own_book",
    LooksUpByPlace: "test_initial_rows_do_not_depend_on_where_they_are",
    UpdatesByPlace: "test_updates_do_not_depend_on_where_rows_are",
    InitialRowsGoByPlace: "test_initial_rows_do_not_depend_on_where_they_are",
    SaysPlacesAndMeansIds: "test_rows_are_taken_out_by_their_places",
    GrowthForgetsState: "test_a_table_that_has_grown_is_one_that_was_large_from_the_start",
    NewRowsAreZeros: "test_a_table_that_has_grown_is_one_that_was_large_from_the_start",
    OneRowIsNobodys: "test_the_rows_that_ranks_save_are_all_rows_once",
    ExportsInitialRows: "test_a_table_that_is_put_back_goes_on_as_the_one_it_was_taken_from",
    ExportsNoState: "test_exported_state_is_that_of_a_dict_of_rows",
    StepsAreNotPutBack: "test_reset_state_has_its_steps_and_initial_values",
    StateIsNotPutBack: "test_a_table_that_is_put_back_goes_on_as_the_one_it_was_taken_from",
    OldStateStays: "test_reset_state_has_its_steps_and_initial_values",
    OnlyKnownRulesAreKept: "test_state_of_a_rule_that_nobody_knows_is_kept",
    LookupGivesViews: "test_changing_looked_up_rows_does_not_change_the_store",
    LookupForgetsTheOrder: "test_lookup_keeps_the_order_of_ids_and_repeats_duplicates",
    LookupNeedsIds: "test_lookup_of_no_ids_gives_no_rows",
    LookupConvertsIds: "test_ids_that_are_no_int64_vector_are_refused_and_change_nothing",
    LookupWrapsNegativeIds: "test_ids_outside_the_table_are_refused_and_change_nothing",
    LookupIsOffByOne: "test_ids_outside_the_table_are_refused_and_change_nothing",
    InitialRowsDependOnTheSize: "test_a_table_of_another_size_begins_with_the_same_rows",
    InitialRowsIgnoreTheName: "test_initial_rows_depend_on_the_seed_and_the_name",
    CloseDoesNothing: "test_after_close_every_call_is_refused",
    LastGradientWins: "test_gradients_of_equal_ids_are_summed",
    GradientsAreAveraged: "test_gradients_of_equal_ids_are_summed",
    RuleIsAppliedForEachDuplicate: "test_the_rule_is_applied_once_to_each_touched_row",
    EmptyCallsAreNoSteps: "test_a_call_without_ids_counts_as_a_step",
    StateIsForgotten: "test_every_rule_agrees_with_torch",
    EveryRateHasItsOwnState: "test_state_is_kept_when_the_learning_rate_changes",
    AllRulesShareOneState: "test_every_class_of_rules_keeps_its_own_state",
    AllRulesShareOneCount: "test_every_class_of_rules_keeps_its_own_state",
    UntouchedRowsAreUpdated: "test_rows_that_are_not_named_do_not_change",
    HalvesAreSummedAsHalves: "test_16_bit_rows_are_summed_in_float32",
    HalvesAreUpdatedAsHalves: "test_rules_work_on_rows_of_at_least_float32",
    GradientsAreOverwritten: "test_ids_and_gradients_are_left_as_they_are",
    NaNIsMadeZero: "test_gradients_that_are_not_finite_are_refused_under_debug_and_change_nothing",
    GradientsAreBroadcast: "test_gradients_of_another_shape_are_refused_and_change_nothing",
    GradientsAreConverted: "test_gradients_of_another_dtype_are_refused_and_change_nothing",
    GoodIdsOfABadCallAreUpdated: "test_ids_outside_the_table_are_refused_and_change_nothing",
    RefusedCallsAreSteps: "test_gradients_of_another_shape_are_refused_and_change_nothing",
}


class WrongBackend(MemoryBackend):
    def __init__(self, store: type[MemoryEmbeddingStore]) -> None:
        super().__init__()
        self._store = store

    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        return self.attached(spec, MemoryEmbeddingStore) or self.keep(self._store(spec, self._device))


@pytest.mark.parametrize("store", CAUGHT_BY, ids=lambda store: store.__name__)
def test_a_wrong_store_fails_the_test_of_what_it_does_wrong(
    failures: Failures, store: type[MemoryEmbeddingStore]
) -> None:
    test = CAUGHT_BY[store]
    assert failures("EmbeddingStoreTests", lambda: WrongBackend(store), test=test) == {test}


@pytest.mark.parametrize("store", [IgnoresTheBook, SaysTheBookAndIgnoresIt])
def test_a_store_of_two_ranks_that_ignores_the_book_is_caught(
    failures: Failures, store: type[MemoryEmbeddingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackendFixture, "world_size", 2)
    test = "test_ranks_own_the_rows_that_a_book_says"
    assert failures("EmbeddingStoreTests", lambda: WrongBackend(store), test=test) == {test}


@pytest.mark.parametrize(
    "test", sorted({CAUGHT_BY[store] for store in (*Placed.__subclasses__(), SaysPlacesAndMeansIds)})
)
def test_a_store_that_has_its_rows_by_a_book_fails_no_test_of_it(failures: Failures, test: str) -> None:
    assert failures("EmbeddingStoreTests", lambda: WrongBackend(Placed), test=test) == set()


@pytest.mark.parametrize("store", [StateIsForgotten, EmptyCallsAreNoSteps])
def test_random_calls_catch_it_too(failures: Failures, store: type[MemoryEmbeddingStore]) -> None:
    test = "test_random_calls_agree_with_a_dict_of_rows"
    assert failures("EmbeddingStoreTests", lambda: WrongBackend(store), test=test) == {test}


def test_the_right_store_fails_no_test(failures: Failures) -> None:
    assert failures("EmbeddingStoreTests", lambda: WrongBackend(MemoryEmbeddingStore)) == set()
