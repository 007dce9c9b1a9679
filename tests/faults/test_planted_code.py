"""Code planted in every kind of file that a command reads runs nowhere."""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.cli.app import main
from tests.faults.test_checkpoint_damage import planted_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAIN = "train --epochs 1 --num-layers 1 --hidden-channels 4 --name one --out"
OWN = "--dataset CustomLargeGraph --use-dist-embedding --embedding-dim 4"


def distgnn(words: str) -> int:
    """Run a command in this process; an exception that is not ours comes through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["distgnn", *words.split()])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DISTGNN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def write_own(folder: Path) -> list[str]:
    edges = "source,target\n" + "".join(f"{n},{(n + 1) % 20}\n" for n in range(20))
    (folder / "edges.csv").write_text(edges)
    (folder / "labels.csv").write_text("node,label\n" + "".join(f"{n},{n % 2}\n" for n in range(20)))
    return [f"{TRAIN} runs {OWN} --edges edges.csv --labels labels.csv"]


def write_set(folder: Path) -> list[str]:
    raw = folder / "data" / "mine" / "raw"
    raw.mkdir(parents=True)
    edges = [(5 * g + k + 1, 5 * g + (k + 1) % 5 + 1) for g in range(20) for k in range(5)]
    (raw / "mine_A.txt").write_text("".join(f"{a}, {b}\n{b}, {a}\n" for a, b in edges))
    (raw / "mine_graph_indicator.txt").write_text("".join(f"{g + 1}\n" * 5 for g in range(20)))
    (raw / "mine_graph_labels.txt").write_text("".join(f"{g % 2}\n" for g in range(20)))
    return [f"{TRAIN} runs --dataset mine --root data"]


def in_place_of_own_files(folder: Path, content: bytes) -> list[str]:
    words = write_own(folder)[0]
    commands = []
    for suffix in ("csv", "txt", "csv.gz", "npz", "npy", "pt"):
        (folder / f"planted.{suffix}").write_bytes(content)
        commands.append(f"partition CustomLargeGraph --parts 2 --method hash --out cut --edges planted.{suffix}")
    return [*commands, f"{words} --features planted.pt", words.replace("labels.csv", "planted.npz")]


def in_place_of_processed_files(folder: Path, content: bytes) -> list[str]:
    words = write_set(folder)[0]
    processed = folder / "data" / "mine" / "processed"
    processed.mkdir()
    for name in ("data.pt", "pre_transform.pt", "pre_filter.pt"):
        (processed / name).write_bytes(content)
    return [words]


def in_place_of_raw_files_and_the_cache(folder: Path, content: bytes) -> list[str]:
    words = write_set(folder)[0]
    assert distgnn(words) == 0
    for kept in (folder / "cache").iterdir():
        kept.write_bytes(content)
    (folder / "data" / "mine" / "raw" / "mine_node_labels.txt").write_bytes(content)
    return [words.replace("--name one", "--name two")]


def in_place_of_a_run_s_files(folder: Path, content: bytes) -> list[str]:
    words = write_own(folder)[0] + " --checkpoint-every 1"
    assert distgnn(words) == 0
    for path in [path for path in (folder / "runs").rglob("*") if path.is_file()]:
        path.write_bytes(content)
    (folder / "ip_config.txt").write_bytes(content)
    (folder / "secret").write_bytes(content)
    (folder / "secret").chmod(0o600)
    return [
        f"{words} --resume latest",
        "inspect runs/one",
        f"{words} --resume runs/one --ip-config ip_config.txt --backend pyg",
        f"{words.replace('one', 'three')} --secret-file secret",
    ]


def in_place_of_a_partition_s_files(folder: Path, content: bytes) -> list[str]:
    write_own(folder)
    cut = "partition CustomLargeGraph --parts 1 --method hash --out cut --edges edges.csv --labels labels.csv"
    assert distgnn(cut) == 0
    for path in [path for path in (folder / "cut").rglob("*") if path.is_file() and path.name != "manifest.json"]:
        path.write_bytes(content)
    train = f"{TRAIN} runs --partition cut --mode full --use-dist-embedding --embedding-dim 4"
    return [train, "inspect cut", f"{cut} --overwrite"]


PLACES = [
    in_place_of_own_files,
    in_place_of_processed_files,
    in_place_of_raw_files_and_the_cache,
    in_place_of_a_run_s_files,
    in_place_of_a_partition_s_files,
]


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("plant", PLACES)
def test_planted_code_does_not_run(plant: Callable[[Path, bytes], list[str]], kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    content = planted_files(mark)[kind]
    for words in plant(tmp_path, content):
        assert distgnn(words) in {0, 1, 2}, words
        assert not mark.exists(), words
    # The proof that it is what it should be.
    pickle.loads(content) if kind == "pickle" else torch.load(mark.with_name("planted.pt"), weights_only=False)
    assert mark.exists()
