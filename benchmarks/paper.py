"""GIN-0 by the protocol of the GIN paper: ten folds, 350 epochs of 50 batches, width, batch and dropout searched.

A step of one such small model is mostly the time of calls, so the models of all folds and dropout rates are trained at
once: their weights are those of DistributedGINs, stacked, and before each search a few steps are compared with
DistributedGIN itself. Beside the paper's dropout, of the scores alone, stands dropout after each layer as well.

Writes paper.json after each width and batch size of a data set, and goes on from it; then paper.png. Needs the data
sets' files (DISTGNN_DATA) or the internet.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding_bag

from distgnn.data import LoadedDataset, load_dataset
from distgnn.nn import DistributedGIN
from distgnn.train.graphs import Joined

if TYPE_CHECKING:
    from collections.abc import Sequence

mpl.use("Agg")
from matplotlib import pyplot as plt

PAPER = {"MUTAG": (0.894, 0.056), "PROTEINS": (0.762, 0.028)}
LAYERS, LR, HALVED_EVERY, STEPS, FOLDS, SEED = 4, 0.01, 50, 50, 10, 0
VARIANTS = {"0": (0.0, 0.0), "0.5": (0.5, 0.0), "0.5, after each layer too": (0.5, 0.5)}  # of scores, of layers


class Bags(NamedTuple):
    """Which rows are summed into each row, and in backward.

    Args:
        ids: Rows, bag after bag.
        offsets: Where each bag begins.
        back_ids: The same for gradients.
        back_offsets: Likewise.
    """

    ids: Tensor
    offsets: Tensor
    back_ids: Tensor
    back_offsets: Tensor


class BagSum(torch.autograd.Function):
    """Sums of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bags: Bags) -> Tensor:
        """Sum rows."""
        ctx.bags = bags
        return embedding_bag(bags.ids, x, bags.offsets, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Sum gradients."""
        return embedding_bag(ctx.bags.back_ids, gradient, ctx.bags.back_offsets, mode="sum"), None


class NormReLU(torch.autograd.Function):
    """Batch normalization of each model's own rows, and ReLU; rows of padding stay 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalize ``[K, M, C]`` by ``mean`` and ``var`` ``[K, 1, C]``."""
        scale = (var + 1e-5).rsqrt()
        normal = x.sub(mean).mul_(scale)
        out = torch.addcmul(bias, normal, weight).relu_().mul_(mask)
        ctx.save_for_backward(normal, weight, scale, mask, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients, the statistics being those of ``x``."""
        normal, weight, scale, mask, out = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0.0)
        of_bias = gradient.sum(dim=1, keepdim=True)
        of_weight = (gradient * normal).sum(dim=1, keepdim=True)
        rows = mask.sum(dim=1, keepdim=True)
        of_x = gradient.sub_(of_bias / rows).sub_(normal.mul_(of_weight / rows)).mul_(scale * weight).mul_(mask)
        return of_x, of_weight, of_bias, None, None, None


class Batches(NamedTuple):
    """A batch of graphs for each of K models, padded to as many nodes."""

    x: Tensor
    mask: Tensor
    neighbors: Bags
    graphs: Bags
    labels: Tensor


def batches(joined: Joined, positions: Tensor, dtype: torch.dtype = torch.float32) -> Batches:
    """Make batches of the graphs at ``positions``, ``[K, B]``."""
    models, size = positions.shape
    data = joined.take(positions.flatten())
    ends = data.ptr[::size]
    counts = ends.diff()
    rows = int(counts.max())
    place = torch.arange(data.num_nodes) + (torch.arange(models) * rows - ends[:-1]).repeat_interleave(counts)
    x = torch.zeros(models * rows, data.x.size(1), dtype=dtype)
    x[place] = data.x.to(dtype)
    filled = torch.zeros(models * rows, dtype=torch.int64)
    filled[place] = 1
    # Edges are ordered by their sources and there in both directions: those of a node are its neighbors.
    degrees = torch.bincount(place[data.edge_index[0]], minlength=models * rows)
    ids, offsets = place[data.edge_index[1]], degrees.cumsum(0) - degrees
    return Batches(
        x.view(models, rows, -1),
        filled.view(models, rows, 1).to(dtype),
        Bags(ids, offsets, ids, offsets),
        Bags(place, data.ptr[:-1], data.batch, filled.cumsum(0) - filled),
        data.y.view(models, size),
    )


class Stack(nn.Module):
    """K models at once.

    Linear maps before a batch normalization are without their bias, which it takes away again; running means begin
    without it.

    Args:
        models: With their weights.
        dropouts: For each, the rates of its scores and of its layers.
    """

    def __init__(self, models: Sequence[Any], dropouts: Sequence[tuple[float, float]]) -> None:
        super().__init__()

        def stacked(tensors: Sequence[Tensor]) -> nn.Parameter:
            return nn.Parameter(torch.stack([tensor.detach() for tensor in tensors]))

        layers = range(len(models[0].convs))
        self.maps = nn.ParameterList(
            stacked([model.convs[layer].nn.lins[lin].weight.t() for model in models])
            for layer in layers
            for lin in (0, 1)
        )
        norms = [[model.convs[layer].nn.norms[0].module for model in models] for layer in layers]
        outer = [[model.norms[layer].module for model in models] for layer in layers]
        ordered = [one for pair in zip(norms, outer, strict=True) for one in pair]
        self.scales = nn.ParameterList(stacked([norm.weight[None] for norm in one]) for one in ordered)
        self.shifts = nn.ParameterList(stacked([norm.bias[None] for norm in one]) for one in ordered)
        heads = [[model.heads[layer] for model in models] for layer in range(len(layers) + 1)]
        self.heads = nn.ParameterList(stacked([head.weight.t() for head in one]) for one in heads)
        self.biases = nn.ParameterList(stacked([head.bias[None] for head in one]) for one in heads)
        own = [
            [model.convs[layer].nn.lins[lin].bias.detach() for model in models] for layer in layers for lin in (0, 1)
        ]
        self.means = [-torch.stack(biases)[:, None] for biases in own]
        self.variances = [torch.ones_like(scale) for scale in self.scales]
        self.of_scores, self.of_layers = (torch.tensor(rates).view(-1, 1, 1) for rates in zip(*dropouts, strict=True))

    def forward(self, batch: Batches) -> Tensor:
        """Return scores ``[K, B, classes]``."""
        h, pooled = batch.x, [batch.x]
        for layer in range(0, len(self.maps), 2):
            h = h + BagSum.apply(h.flatten(0, 1), batch.neighbors).view_as(h)  # type: ignore[no-untyped-call]
            for number in (layer, layer + 1):
                h = self._norm_relu(number, torch.bmm(h, self.maps[number]), batch.mask)
            h = self._drop(h, self.of_layers)
            pooled.append(h)
        widths = [rows.size(-1) for rows in pooled]
        sums = BagSum.apply(torch.cat(pooled, dim=-1).flatten(0, 1), batch.graphs).view(*batch.labels.shape, -1)  # type: ignore[no-untyped-call]
        scores = [
            self._drop(torch.baddbmm(bias, rows, head), self.of_scores)
            for rows, head, bias in zip(sums.split(widths, dim=-1), self.heads, self.biases, strict=True)
        ]
        return torch.stack(scores).sum(dim=0)

    def _norm_relu(self, number: int, x: Tensor, mask: Tensor) -> Tensor:
        mean, var = self.means[number], self.variances[number]
        if self.training:
            with torch.no_grad():
                rows = mask.sum(dim=1, keepdim=True)
                mean = x.sum(dim=1, keepdim=True) / rows
                var = x.sub(mean).mul_(mask).square_().sum(dim=1, keepdim=True) / rows
                self.means[number].lerp_(mean, 0.1)
                self.variances[number].lerp_(var * rows / (rows - 1), 0.1)
        out: Tensor = NormReLU.apply(x, self.scales[number], self.shifts[number], mask, mean, var)  # type: ignore[no-untyped-call]
        return out

    def _drop(self, x: Tensor, rates: Tensor) -> Tensor:
        if not self.training or not rates.any():
            return x
        of = rates.flatten() > 0
        rate = float(rates.max())  # all rates but 0 are the same
        kept = x[of]
        dropped = kept * (torch.rand_like(kept) >= rate).to(x.dtype).div_(1 - rate)
        return x.index_copy(0, of.nonzero().flatten(), dropped)


def make_models(dataset: LoadedDataset, hidden: int) -> list[DistributedGIN]:
    """Make the model of each fold, all from the same seed as in the paper's code."""
    made = []
    for _ in range(FOLDS):
        torch.manual_seed(SEED)
        sizes: dict[str, Any] = {
            "in_channels": dataset.num_features,
            "hidden_channels": hidden,
            "out_channels": dataset.num_classes,
        }
        made.append(DistributedGIN(**sizes, num_layers=LAYERS, norm="batch_norm", readout="layer_sum"))
    return made


def compare(dataset: LoadedDataset, hidden: int, size: int) -> None:
    """Make sure that a few steps of the stack are those of DistributedGIN."""
    joined, generator = Joined(dataset.graphs), torch.Generator().manual_seed(SEED)
    models = [model.double() for model in make_models(dataset, hidden)]  # Adam makes a step of any rounding error
    stack = Stack(models, [VARIANTS["0"]] * FOLDS)
    optimizers = [torch.optim.Adam(model.parameters(), lr=LR) for model in models]
    optimizer = torch.optim.Adam(stack.parameters(), lr=LR)
    for _ in range(4):
        positions = torch.stack([torch.randperm(len(dataset.graphs), generator=generator)[:size] for _ in models])
        loss = step(stack, optimizer, batches(joined, positions, torch.float64))
        for model, own, optimizer_ in zip(models, positions, optimizers, strict=True):
            data = joined.take(own)
            optimizer_.zero_grad()
            theirs = cross_entropy(model(data.x.double(), data.edge_index, batch=data.batch, batch_size=size), data.y)
            theirs.backward()  # type: ignore[no-untyped-call]
            optimizer_.step()
            loss = loss - theirs.detach()
        if abs(float(loss)) > 1e-6:
            raise AssertionError(f"the losses of the stack and of DistributedGIN differ by {float(loss)}")
    stack.eval()
    held = torch.arange(FOLDS * 8).view(FOLDS, 8)
    with torch.no_grad():
        ours = stack(batches(joined, held, torch.float64))
        for model, own, scores in zip(models, held, ours, strict=True):
            data = joined.take(own)
            theirs = model.eval()(data.x.double(), data.edge_index, batch=data.batch, batch_size=8)
            torch.testing.assert_close(scores, theirs, rtol=1e-5, atol=1e-5)


def step(stack: Stack, optimizer: torch.optim.Optimizer, batch: Batches) -> Tensor:
    """Make a step; return the sum of the models' losses."""
    optimizer.zero_grad()
    scores = stack(batch)
    loss = cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), reduction="sum") / batch.labels.size(1)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def search(dataset: LoadedDataset, hidden: int, size: int, epochs: int) -> dict[str, Tensor]:
    """Train every variant on every fold; return test accuracies by variant, ``[folds, epochs]``."""
    labels = np.array([int(graph.y) for graph in dataset.graphs])
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels))
    draws = [np.random.RandomState(SEED) for _ in folds]
    stack = Stack(
        [model for _ in VARIANTS for model in make_models(dataset, hidden)],
        [rates for rates in VARIANTS.values() for _ in folds],
    )
    optimizer = torch.optim.Adam(stack.parameters(), lr=LR, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, HALVED_EVERY, 0.5)
    joined = Joined(dataset.graphs)
    longest = max(len(test) for _, test in folds)
    held_out = torch.tensor([[*test, *test[:1].repeat(longest - len(test))] for _, test in folds])
    counted = torch.tensor([[number < len(test) for number in range(longest)] for _, test in folds])
    held_out_batch = batches(joined, held_out.repeat(len(VARIANTS), 1))
    found = []
    for _ in track(range(epochs), description=f"{dataset.name}, width {hidden}, batches of {size}"):
        stack.train()
        for _ in range(STEPS):
            positions = [
                train[draw.permutation(len(train))[:size]] for (train, _), draw in zip(folds, draws, strict=True)
            ]
            step(stack, optimizer, batches(joined, torch.from_numpy(np.stack(positions * len(VARIANTS)))))
        schedule.step()
        stack.eval()
        with torch.no_grad():
            right = stack(held_out_batch).argmax(dim=-1) == held_out_batch.labels
        found.append((right.view(len(VARIANTS), FOLDS, -1) & counted).sum(dim=-1) / counted.sum(dim=-1))
    return dict(zip(VARIANTS, torch.stack(found, dim=-1), strict=True))


def summary(accuracies: Tensor) -> dict[str, Any]:
    """Return what the paper reports: the epoch of the best mean over folds, and mean and deviation there."""
    curve = accuracies.double().mean(dim=0)
    best = int(curve.argmax())
    scores = accuracies[:, best].double()
    return {
        "mean": float(scores.mean()),
        "std": float(scores.std(correction=0)),
        "epoch": best + 1,
        "scores": scores.tolist(),
        "curve": curve.tolist(),
    }


def show(results: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table("data set", "width", "batch", "dropout", "test accuracy", "epoch", "paper, best of its search")
    for label, found in results.items():
        name, hidden, size, variant = label.split("/")
        mean, std = PAPER[name]
        own = f"{found['mean']:.1%} ± {found['std']:.1%}"
        table.add_row(name, hidden, size, variant, own, str(found["epoch"]), f"{mean:.1%} ± {std:.1%}")
    console.print(table)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the mean over folds by epoch, of each variant at the width and batch that are best for it."""
    names = list(dict.fromkeys(label.split("/")[0] for label in results))
    figure, panels = plt.subplots(1, len(names), figsize=(5.5 * len(names), 3.6), layout="constrained", squeeze=False)
    for name, axes in zip(names, panels[0], strict=True):
        mean, std = PAPER[name]
        axes.axhspan(mean - std, mean + std, color="0.92", label="paper ± its deviation")
        for variant in VARIANTS:
            own = [
                found
                for label, found in results.items()
                if label.startswith(f"{name}/") and label.endswith(f"/{variant}")
            ]
            best = max(own, key=lambda found: found["mean"])
            axes.plot(range(1, len(best["curve"]) + 1), best["curve"], linewidth=0.8, label=f"dropout {variant}")
        axes.set(title=name, xlabel="epoch of 50 batches", ylabel="test accuracy, mean of 10 folds")
        axes.legend(fontsize="small", loc="lower right")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Search, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(PAPER), choices=list(PAPER))
    parser.add_argument("--widths", nargs="+", type=int, default=[16, 32])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--epochs", type=int, default=350)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path, console = arguments.out / "paper.json", Console()
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for size, hidden, name in itertools.product(arguments.batches, arguments.widths, arguments.datasets):
        labels = {variant: f"{name}/{hidden}/{size}/{variant}" for variant in VARIANTS}
        if results.keys() >= set(labels.values()):
            continue
        dataset = load_dataset(name)
        compare(dataset, hidden, size)
        found = search(dataset, hidden, size, arguments.epochs)
        results |= {label: summary(found[variant]) for variant, label in labels.items()}
        path.write_text(json.dumps(results) + "\n")
        show(results, console)
    draw(results, arguments.out / "paper.png")


if __name__ == "__main__":
    main()
