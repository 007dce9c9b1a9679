"""The sums by which GIN and GINE do without messages, against PyG's layers that make them."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad as fwad
from torch.nn import Identity, Linear, Module
from torch_geometric import EdgeIndex
from torch_geometric.nn import GINConv, GINEConv
from torch_geometric.utils import to_torch_csr_tensor

from distgnn.nn import DistributedGINConv, DistributedGINEConv, aggregate, layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

sparse = pytest.mark.filterwarnings("ignore:Sparse (invariant checks|CSR tensor):UserWarning")
PAIRS = [(DistributedGINConv, GINConv), (DistributedGINEConv, GINEConv)]
both = pytest.mark.parametrize(("ours", "pygs"), PAIRS, ids=["GIN", "GINE"])


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(layout, "_WORTHWHILE", 0)  # small graphs are quickly tested


@pytest.fixture
def no_messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let PyG's way fail, so that what passes has not gone it."""

    def message(*_: object, **__: object) -> Tensor:
        raise AssertionError("a message was made")

    with monkeypatch.context() as patch:
        patch.setattr(GINConv, "message", message)
        patch.setattr(GINEConv, "message", message)
        yield


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "_CHUNK", 8)


def random_graph(nodes: int = 50, edges: int = 300) -> Tensor:
    return torch.randint(nodes, (2, edges))


def distinct_edges() -> Tensor:
    cells: Tensor = torch.rand(50, 50) < 0.1
    return cells.nonzero().t().contiguous()


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def results(conv: Module, edge_index: Any, inputs: tuple[Any, ...], **kwargs: Any) -> list[Tensor | None]:
    """The output, and the gradients of inputs and parameters."""
    x, *rest = inputs
    out: Tensor = conv(x, edge_index, *rest, **kwargs)
    ends = x if isinstance(x, tuple) else (x,)
    leaves = [t for t in (*ends, *rest, *conv.parameters()) if t is not None and t.requires_grad]
    slopes = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    return [out, *torch.autograd.grad(out, leaves, slopes, allow_unused=True)]


def inputs_for(conv: type, nodes: int, edges: int, width: int = 3, **kwargs: Any) -> tuple[Tensor, ...]:
    x = leaf(nodes, width, **kwargs)
    return (x, leaf(edges, width, **kwargs)) if issubclass(conv, GINEConv) else (x,)


def layers(ours: type, pygs: type, nn: Module | None = None, **kwargs: Any) -> tuple[Module, Module]:
    nn = nn or Identity()
    return ours(nn, train_eps=True, **kwargs).double(), pygs(nn, train_eps=True, **kwargs).double()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Tensor]:
    """Graphs with isolated nodes, self loops and repeated edges, in any order or sorted by either end."""
    nodes = draw(st.integers(1, 8))
    edges = draw(st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=30))
    order = draw(st.sampled_from([None, 0, 1]))
    if order is not None:
        edges.sort(key=lambda edge: (edge[order], edge))
    return nodes, torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous()


@both
@given(graph=graphs(), width=st.integers(1, 5), chunk=st.integers(1, 40), flow=st.booleans())
@settings(max_examples=80, deadline=None)
def test_outputs_and_gradients_are_pygs_on_any_graph(
    ours: type, pygs: type, graph: tuple[int, Tensor], width: int, chunk: int, flow: bool
) -> None:
    nodes, edge_index = graph
    inputs = inputs_for(ours, nodes, edge_index.size(1), width)
    conv, peer = layers(ours, pygs, flow="source_to_target" if flow else "target_to_source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_CHUNK", chunk)
        torch.testing.assert_close(results(conv, edge_index, inputs), results(peer, edge_index, inputs))


@both
@pytest.mark.usefixtures("no_messages", "small_chunks")
@pytest.mark.parametrize("sorted_by", [None, 0, 1, "stored by edge"])
def test_no_message_is_made(ours: type, pygs: type, sorted_by: Any) -> None:
    edge_index = random_graph()
    if sorted_by == "stored by edge":
        edge_index = edge_index.t().contiguous().t()
    elif sorted_by is not None:
        edge_index = edge_index[:, edge_index[sorted_by].argsort(stable=True)]
    inputs = inputs_for(ours, 50, 300)
    out = results(layers(ours, pygs)[0], edge_index, inputs)[0]
    messages = inputs[0][edge_index[0]]
    if len(inputs) == 2:
        messages = (messages + inputs[1]).relu()
    expected = torch.zeros(50, 3, dtype=torch.float64).index_add(0, edge_index[1], messages) + inputs[0]
    torch.testing.assert_close(out, expected)


@both
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [
        (torch.float64, 1e-12, 1e-12),
        (torch.float32, 1e-5, 1e-5),
        (torch.bfloat16, 3e-2, 1e-1),
        (torch.float16, 5e-3, 2e-2),
    ],
)
def test_each_float_type_gives_what_pyg_gives(
    ours: type, pygs: type, dtype: torch.dtype, rtol: float, atol: float
) -> None:
    edge_index = random_graph()
    inputs = inputs_for(ours, 50, 300, 20, dtype=dtype)
    conv, peer = (conv.to(dtype) for conv in layers(ours, pygs))
    actual, expected = results(conv, edge_index, inputs), results(peer, edge_index, inputs)
    torch.testing.assert_close(actual[:-1], expected[:-1], rtol=rtol, atol=atol)
    torch.testing.assert_close(actual[-1], expected[-1], rtol=rtol, atol=atol * 20)  # eps: a sum over all nodes


def test_a_big_sum_in_float32_differs_from_pygs_by_rounding_alone() -> None:
    edge_index, x, edge_attr = random_graph(3000, 40_000), torch.randn(3000, 24), torch.randn(40_000, 24)
    x.requires_grad_()
    edge_attr.requires_grad_()
    actual, expected = (results(conv(Identity()), edge_index, (x,)) for conv in PAIRS[0])
    torch.testing.assert_close(actual, expected)
    actual, expected = (results(conv(Identity()), edge_index, (x, edge_attr)) for conv in PAIRS[1])
    torch.testing.assert_close(actual[0], expected[0])
    for ours, pygs in zip(actual[1:], expected[1:], strict=True):
        assert ours is not None
        assert pygs is not None
        # A sum that rounds to either side of zero passes its gradient or does not.
        assert int((~torch.isclose(ours, pygs, rtol=1e-4, atol=1e-5)).sum()) <= 5


@both
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_a_fixed_eps_weighs_the_node_itself_and_outputs_may_be_changed_in_place(
    ours: type, pygs: type, eps: float
) -> None:
    edge_index, inputs, found = random_graph(), inputs_for(ours, 50, 300), []
    for conv in (ours(Identity(), eps).double(), pygs(Identity(), eps).double()):
        out = conv(inputs[0], edge_index, *inputs[1:]).mul_(3)
        found.append((out, torch.autograd.grad(out.square().sum(), inputs)))
    torch.testing.assert_close(found[0], found[1])


@both
@pytest.mark.parametrize("frozen", ["x", "edge_attr"])
@pytest.mark.usefixtures("small_chunks")
def test_an_input_that_needs_no_gradient_gets_none(ours: type, pygs: type, frozen: str) -> None:
    inputs = [t.detach().requires_grad_() for t in inputs_for(ours, 50, 300)]
    inputs[0 if frozen == "x" else -1].requires_grad_(False)
    edge_index = random_graph()
    conv, peer = layers(ours, pygs, Linear(3, 4))
    torch.testing.assert_close(results(conv, edge_index, (*inputs,)), results(peer, edge_index, (*inputs,)))


@pytest.mark.usefixtures("no_messages", "small_chunks")
def test_gradients_of_gradients_are_those_of_finite_differences() -> None:
    edge_index = torch.tensor([[0, 1, 2, 2, 3, 0], [1, 1, 0, 3, 0, 1]])
    gin, gine = DistributedGINConv(Identity()).double(), DistributedGINEConv(Identity()).double()
    x, edge_attr = leaf(4, 2), leaf(6, 2)
    for conv, inputs in ((gin, (x,)), (gine, (x, edge_attr))):

        def run(x: Tensor, *rest: Tensor, conv: Module = conv) -> Any:
            return conv(x, edge_index, *rest)

        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)


@both
def test_a_gradient_penalty_trains_as_with_pyg(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    slopes = []
    for conv in layers(ours, pygs, Linear(3, 4).double()):
        out = conv(inputs[0], edge_index, *inputs[1:]).tanh()
        first = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        penalty = torch.stack([slope.square().sum() for slope in first]).sum()
        slopes.append(torch.autograd.grad(penalty, [*inputs, *conv.parameters()], allow_unused=True))
    torch.testing.assert_close(slopes[0], slopes[1])


@both
@pytest.mark.parametrize("size", [None, (50, 20)])
def test_bipartite_graphs_give_what_pyg_gives(ours: type, pygs: type, size: tuple[int, int] | None) -> None:
    edge_index = torch.stack((torch.randint(50, (300,)), torch.randint(20, (300,))))
    x, *rest = inputs_for(ours, 50, 300)
    y = leaf(20, 3)
    conv, peer = layers(ours, pygs)
    for pair in ((x, y), (x, None)):
        inputs = (pair, *rest)
        torch.testing.assert_close(
            results(conv, edge_index, inputs, size=size), results(peer, edge_index, inputs, size=size)
        )


def test_edge_features_of_another_width_are_mapped_first() -> None:
    edge_index, x, edge_attr = random_graph(), leaf(50, 3), leaf(300, 7)
    peer = GINEConv(Linear(3, 4), edge_dim=7).double()
    conv = DistributedGINEConv(Linear(3, 4), edge_dim=7).double()
    conv.load_state_dict(peer.state_dict())
    torch.testing.assert_close(results(conv, edge_index, (x, edge_attr)), results(peer, edge_index, (x, edge_attr)))


def test_inputs_of_two_float_types_sum_in_the_wider_one() -> None:
    edge_index, x, edge_attr = random_graph(), leaf(50, 3, dtype=torch.float32), leaf(300, 3)
    conv, peer = DistributedGINEConv(Identity()), GINEConv(Identity())
    torch.testing.assert_close(results(conv, edge_index, (x, edge_attr)), results(peer, edge_index, (x, edge_attr)))


@both
def test_autocast_gives_what_pyg_gives(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300, dtype=torch.float32)
    linear = Linear(3, 3)
    outputs = []
    for conv in layers(ours, pygs, Linear(3, 4)):
        conv.float()
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(linear(inputs[0]), edge_index, *(linear(t) for t in inputs[1:]))
        outputs.append((out, torch.autograd.grad(out.sum(), inputs)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=2e-2, atol=5e-2)


@pytest.mark.usefixtures("no_messages", "small_chunks")
@pytest.mark.parametrize("sort_order", [None, "row", "col"])
def test_an_edge_index_of_pyg_is_summed_without_messages(sort_order: Any) -> None:
    edges = random_graph()
    if sort_order is not None:
        edges = edges[:, edges[0 if sort_order == "row" else 1].argsort()]
    edge_index = EdgeIndex(edges, sparse_size=(50, 50), sort_order=sort_order)
    for ours, _ in PAIRS:
        conv, inputs = ours(Identity()), inputs_for(ours, 50, 300)
        torch.testing.assert_close(results(conv, edge_index, inputs), results(conv, edges, inputs))


@sparse
def test_a_csr_matrix_of_ones_is_summed_as_pyg_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    adj, x = to_torch_csr_tensor(distinct_edges(), size=(50, 50)).double(), leaf(50, 3)
    conv, peer = layers(*PAIRS[0])
    expected = results(peer, adj, (x,))
    monkeypatch.setattr(GINConv, "message_and_aggregate", None)
    torch.testing.assert_close(results(conv, adj, (x,)), expected)


@sparse
def test_a_csr_matrix_with_weights_is_multiplied_by_pyg() -> None:
    edge_index = distinct_edges()
    adj = to_torch_csr_tensor(edge_index, torch.rand(edge_index.size(1)).double(), size=(50, 50))
    conv, peer = layers(*PAIRS[0])
    x = leaf(50, 3)
    torch.testing.assert_close(results(conv, adj, (x,)), results(peer, adj, (x,)))


def test_large_graphs_get_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    edge_index, x = random_graph(), leaf(50, 3)
    narrow = results(DistributedGINConv(Identity()), edge_index, (x,))
    assert layout_of(edge_index).outgoing.neighbors.dtype == torch.int32
    monkeypatch.setattr(layout, "_MAX_INT32", 299)
    edge_index = edge_index.clone()
    torch.testing.assert_close(results(DistributedGINConv(Identity()), edge_index, (x,)), narrow)
    assert layout_of(edge_index).outgoing.neighbors.dtype == torch.int64


def layout_of(edge_index: Tensor) -> Any:
    return layout._known.get(edge_index)  # type: ignore[no-untyped-call]


def test_the_smallest_graphs_are_left_to_pyg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_WORTHWHILE", 900)
    for edges, known in ((random_graph(edges=299), False), (random_graph(edges=300), True)):
        DistributedGINConv(Identity())(torch.randn(50, 3), edges)
        assert (layout_of(edges) is not None) is known


def test_layers_of_a_model_and_epochs_share_one_layout() -> None:
    edge_index, x, edge_attr = random_graph(), leaf(50, 3), leaf(300, 3)
    DistributedGINConv(Identity())(x, edge_index)
    first = layout_of(edge_index)
    for _ in range(2):
        DistributedGINEConv(Identity())(DistributedGINConv(Identity())(x, edge_index), edge_index, edge_attr)
    assert layout_of(edge_index) is first


def test_a_layout_is_forgotten_with_its_edges_and_not_before() -> None:
    edge_index, x = random_graph(), leaf(50, 3)
    out = DistributedGINConv(Identity())(x, edge_index)
    known, alive = weakref.ref(layout_of(edge_index)), len(layout._known)
    del edge_index
    assert len(layout._known) == alive - 1
    assert known() is not None  # backward needs it
    gc.disable()
    try:
        out.sum().backward()
        del out
        assert known() is None  # at once: there are no cycles to be found
    finally:
        gc.enable()


def test_no_layout_outlives_its_mini_batch() -> None:
    alive = len(layout._known)
    for _ in range(5):
        x = leaf(50, 3)
        DistributedGINConv(Identity())(x, random_graph()).sum().backward()
    assert len(layout._known) == alive


CHANGES = {
    "in place": lambda edges: edges.__setitem__((0, 0), 7),
    "through a view": lambda edges: edges[0].fill_(7),
    "through .data": lambda edges: edges.data.__setitem__((0, 0), 7),
    "through numpy": lambda edges: edges.numpy().__setitem__((0, 0), 7),
    "other memory": lambda edges: edges.set_(torch.randint(50, (2, 300))),
    "fewer edges": lambda edges: edges.set_(torch.randint(50, (2, 200))),
}


@both
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("inference", [False, True])
def test_changed_edges_are_noticed(ours: type, pygs: type, change: Any, inference: bool) -> None:
    with torch.inference_mode(inference):
        edge_index = random_graph()
        x, *rest = (t.detach() for t in inputs_for(ours, 50, 300))
        conv, peer = layers(ours, pygs)
        conv(x, edge_index, *rest)
        change(edge_index)
        rest = [t[: edge_index.size(1)] for t in rest]
        torch.testing.assert_close(conv(x, edge_index, *rest), peer(x, edge_index, *rest))


@both
@pytest.mark.usefixtures("small_chunks")
def test_backward_goes_over_the_edges_of_its_forward(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    conv, peer = layers(ours, pygs)
    expected = torch.autograd.grad(peer(inputs[0], edge_index, *inputs[1:]).sum(), inputs)
    out = conv(inputs[0], edge_index, *inputs[1:])
    edge_index.zero_()
    torch.testing.assert_close(torch.autograd.grad(out.sum(), inputs), expected)


def test_one_edge_index_serves_graphs_of_several_sizes() -> None:
    edge_index = torch.tensor([[0, 1, 2], [2, 2, 0]])
    for nodes in (3, 5, 3):
        conv, peer = layers(*PAIRS[0])
        inputs = (leaf(nodes, 2),)
        torch.testing.assert_close(results(conv, edge_index, inputs), results(peer, edge_index, inputs))


@both
def test_a_layout_made_in_inference_serves_training(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    conv, peer = layers(ours, pygs)
    with torch.inference_mode():
        conv(inputs[0], edge_index, *inputs[1:])
    torch.testing.assert_close(results(conv, edge_index, inputs), results(peer, edge_index, inputs))
    out = conv(inputs[0], edge_index, *inputs[1:])
    torch.autograd.grad(out.square().sum(), inputs, create_graph=True)[0].sum().backward()  # type: ignore[no-untyped-call]


def test_neither_layer_nor_edges_carry_the_layout_into_files_and_copies() -> None:
    edge_index, x, conv = random_graph(), leaf(50, 3), DistributedGINConv(Identity()).double()
    sizes = []
    for _ in range(2):
        file = io.BytesIO()
        torch.save((edge_index, conv), file)
        sizes.append(file.tell())
        out = conv(x, edge_index)
    assert sizes[0] == sizes[1]
    copied = copy.deepcopy((conv, edge_index))
    torch.testing.assert_close(copied[0](x, copied[1]), out)


@both
@pytest.mark.usefixtures("small_chunks")
def test_every_run_on_one_and_two_threads_gives_the_same_bits(ours: type, pygs: type) -> None:
    del pygs
    edge_index, inputs = random_graph(500, 20_000), inputs_for(ours, 500, 20_000, 40, dtype=torch.float32)
    threads, runs = torch.get_num_threads(), []
    try:
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            before = torch.__config__.parallel_info()
            runs.append(results(ours(Identity()), edge_index.clone(), inputs))
            assert torch.__config__.parallel_info() == before  # of torch, OpenMP and MKL
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    torch.testing.assert_close(runs[0], runs[2], rtol=0, atol=0)


def hooked(conv: Any, kind: str) -> Any:
    getattr(conv, f"register_{kind}_forward_hook")(lambda *arguments: 3 * arguments[-1])
    return conv


def pre_hooked(conv: Any, kind: str) -> Any:
    def hook(_: Any, inputs: Any) -> Any:
        arguments = dict(inputs[-1])
        name, value = next(iter(arguments.items()))
        arguments[name] = tuple(2 * end for end in value) if isinstance(value, tuple) else 2 * value
        return (*inputs[:-1], arguments)

    getattr(conv, f"register_{kind}_forward_pre_hook")(hook)
    return conv


def watched(conv: Any) -> Any:
    conv.aggr_module.register_forward_hook(lambda _, __, out: 7 * out)
    return conv


def explained(conv: Any) -> Any:
    conv.explain = True
    conv._edge_mask = torch.zeros(300, dtype=torch.float64)
    return conv


def with_its_own_message(conv: Any) -> Any:
    conv.message = lambda x_j: 5 * x_j
    return conv


LOOKED_INTO = {
    "mean": lambda base: base(Identity(), aggr="mean"),
    "propagate hook": lambda base: hooked(base(Identity()), "propagate"),
    "message hook": lambda base: hooked(base(Identity()), "message"),
    "aggregate hook": lambda base: hooked(base(Identity()), "aggregate"),
    "propagate pre-hook": lambda base: pre_hooked(base(Identity()), "propagate"),
    "message pre-hook": lambda base: pre_hooked(base(Identity()), "message"),
    "hook of the aggregation": lambda base: watched(base(Identity())),
    "explainer": lambda base: explained(base(Identity())),
    "message of the object": lambda base: with_its_own_message(base(Identity())),
}


@pytest.mark.parametrize("make", LOOKED_INTO.values(), ids=LOOKED_INTO)
def test_a_layer_that_is_looked_into_or_set_up_otherwise_stays_pygs(make: Any) -> None:
    edge_index, inputs = random_graph(), (leaf(50, 3),)
    pair = []
    for base in PAIRS[0]:
        torch.manual_seed(1)
        pair.append(results(make(base).double(), edge_index, inputs))
    torch.testing.assert_close(*pair)


class Doubled(DistributedGINConv):
    def message(self, x_j: Tensor) -> Tensor:
        return 2 * x_j


class Negated(DistributedGINConv):
    def update(self, inputs: Tensor) -> Tensor:
        return -inputs


class Shifted(DistributedGINConv):
    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int | None = None) -> Tensor:
        return 1 + torch.zeros(dim_size or 0, 3, dtype=inputs.dtype).index_add(0, index, inputs)


class Constant(DistributedGINConv):
    def propagate(self, edge_index: Tensor, size: Any = None, **kwargs: Any) -> Tensor:
        return torch.ones_like(kwargs["x"][0])


def test_a_subclass_may_change_what_a_message_is_and_what_becomes_of_it() -> None:
    edge_index, x = random_graph(), torch.randn(50, 3).double()
    plain: Tensor = GINConv(Identity())(x, edge_index) - x
    for layer, expected in (
        (Doubled, 2 * plain),
        (Negated, -plain),
        (Shifted, 1 + plain),
        (Constant, torch.ones_like(x)),
    ):
        torch.testing.assert_close(layer(Identity())(x, edge_index), x + expected)


def test_a_subclass_that_changes_neither_makes_no_messages(no_messages: None) -> None:
    class Named(DistributedGINConv):
        pass

    x = torch.randn(50, 3)
    assert Named(Identity())(x, random_graph()).shape == x.shape


WRONG = {
    "ends beyond the nodes": (torch.tensor([[0, 1], [1, 50]]), None),
    "starts beyond the nodes": (torch.tensor([[0, 50], [1, 1]]), None),
    "negative ends": (torch.tensor([[0, 1], [1, -1]]), None),
    "another size": (torch.tensor([[0, 1], [1, 0]]), (49, 50)),
    "three rows": (torch.zeros(3, 2, dtype=torch.int64), None),
    "floats": (torch.zeros(2, 2), None),
}


@pytest.mark.parametrize(("edge_index", "size"), WRONG.values(), ids=WRONG)
def test_wrong_edges_are_refused_in_pygs_words(edge_index: Tensor, size: Any) -> None:
    x = torch.randn(50, 3)
    with pytest.raises(Exception) as refused:  # noqa: PT011  # whichever PyG raises
        GINConv(Identity())(x, edge_index, size)
    with pytest.raises(type(refused.value)) as ours:
        DistributedGINConv(Identity())(x, edge_index, size)
    assert str(ours.value) == str(refused.value)


@both
def test_integer_and_stacked_features_are_pygs(ours: type, pygs: type) -> None:
    edge_index, (x, *rest) = random_graph(), inputs_for(ours, 50, 300)
    for features in ([(t * 10).long() for t in (x, *rest)], [torch.stack((x, 2 * x)), *rest]):
        conv, peer = ours(Identity()), pygs(Identity())
        actual, expected = (layer(features[0], edge_index, *features[1:]) for layer in (conv, peer))
        torch.testing.assert_close(actual, expected)


@both
def test_function_transforms_and_forward_derivatives_are_pygs(ours: type, pygs: type) -> None:
    edge_index, (x, *rest) = random_graph(), inputs_for(ours, 50, 300)
    x, rest = x.detach(), [t.detach() for t in rest]
    found = []
    for conv in layers(ours, pygs):

        def run(x: Tensor, conv: Module = conv) -> Any:
            return conv(x, edge_index, *rest)

        slope = torch.func.grad(lambda x, run=run: run(x).sin().sum())(x)
        with fwad.dual_level():
            dual = fwad.make_dual(x, torch.ones_like(x))  # type: ignore[no-untyped-call]
            tangent = fwad.unpack_dual(run(dual)).tangent  # type: ignore[no-untyped-call]
        batched = torch.func.vmap(run)(torch.stack((x, 2 * x)))
        found.append((slope, tangent, batched))
    torch.testing.assert_close(found[0], found[1])


@both
def test_checkpointing_recomputes_to_the_same_gradients(ours: type, pygs: type) -> None:
    del pygs
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    conv = ours(Identity()).double()
    out = torch.utils.checkpoint.checkpoint(conv, inputs[0], edge_index, *inputs[1:], use_reentrant=False)
    expected = torch.autograd.grad(conv(inputs[0], edge_index, *inputs[1:]).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), inputs), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
@both
def test_on_a_gpu_the_layers_are_pygs(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph().cuda(), [t.detach().cuda().requires_grad_() for t in inputs_for(ours, 50, 300)]
    conv, peer = (conv.cuda() for conv in layers(ours, pygs))
    torch.testing.assert_close(results(conv, edge_index, (*inputs,)), results(peer, edge_index, (*inputs,)))
