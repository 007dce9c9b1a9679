"""Row-wise Adagrad on tables of the fbgemm and the memory backend, in turns.

Each round applies a batch of gradients to both. Writes row_wise_adagrad.json into --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import distgnn
from distgnn.optim import RowWiseAdagrad

CASES = [(columns, batch, skewed) for columns in (16, 64, 128) for batch in (4_096, 65_536) for skewed in (False, True)]


def draw(rows: int, batch: int, *, skewed: bool) -> torch.Tensor:
    """Draw ids, uniform or of a power law: half of the draws are the square root of all rows."""
    if not skewed:
        return torch.randint(rows, (batch,))
    ranks = (rows ** torch.rand(batch, dtype=torch.float64)).long().clamp_(max=rows - 1)
    return ranks * 7_919 % rows  # neighbors in rank are not neighbors in memory


def main() -> None:
    """Measure, and show medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    backends = {name: distgnn.use(name).backend for name in ("memory", "fbgemm")}
    found = []
    for columns, batch, skewed in CASES:
        spec = distgnn.EmbeddingSpec("rows", arguments.rows, columns)
        stores = {name: backend.open_embedding(spec) for name, backend in backends.items()}
        seconds: dict[str, list[float]] = {name: [] for name in stores}
        for _ in range(arguments.rounds + 1):
            ids, gradients = draw(arguments.rows, batch, skewed=skewed), torch.randn(batch, columns)
            for name, store in stores.items():
                begin = time.perf_counter()
                store.apply_gradients(ids, gradients, RowWiseAdagrad())
                seconds[name].append(time.perf_counter() - begin)
        everything = torch.arange(arguments.rows)
        torch.testing.assert_close(stores["fbgemm"].lookup(everything), stores["memory"].lookup(everything))
        rates = {name: batch / statistics.median(times[1:]) for name, times in seconds.items()}  # the first makes state
        ratios = [a / b for a, b in zip(*(times[1:] for times in seconds.values()), strict=True)]
        found.append(
            {
                "columns": columns,
                "batch": batch,
                "ids": "skewed" if skewed else "uniform",
                **{f"{name}_rows_per_second": round(rate) for name, rate in rates.items()},
                "fbgemm_over_memory": round(statistics.median(ratios), 2),
                "slowest_and_fastest_round": [round(min(ratios), 2), round(max(ratios), 2)],
            }
        )
        print(json.dumps(found[-1]), flush=True)
        for store in stores.values():
            store.close()
    result = {"rows": arguments.rows, "threads": arguments.threads, "torch": torch.__version__, "cases": found}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "row_wise_adagrad.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
