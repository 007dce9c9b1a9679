"""What a run leaves for people to see: the page of ``--report``, and TensorBoard's events."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from distgnn import ConfigError
from distgnn.report import events
from distgnn.train import run
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTIONS = ["result", "curves", "time", "timeline", "configuration", "machine"]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def train(**options: Any) -> run.Result:
    small = {"dataset": "CustomLargeGraph", "num_nodes": 200, "num_edges": 1000, "epochs": 3, "hidden_channels": 8}
    stores = {"use_dist_embedding": True, "embedding_dim": 4, "mode": "sampled", "batch_size": 60}
    return run.train(TrainConfig(**{**small, **stores, **options}), console=Console(file=StringIO(), width=160))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> run.Result:
    folder = tmp_path_factory.mktemp("runs")
    return train(out=str(folder), name="a < b", report=True, tensorboard=True, runs=2)


@pytest.fixture(scope="module")
def page(reported: run.Result) -> str:
    return (reported.folder / "report.html").read_text()


class Elements(HTMLParser):
    """The ids of sections, the addresses that are asked for, and whether every element ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag == "section":
            self.ids.append(named.get("id") or "")
        self.addresses += [value or "" for name, value in attributes if name in {"src", "href", "xlink:href", "data"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag != "meta":
            self.open.pop()


def test_the_page_has_all_sections_and_asks_nobody_for_anything(page: str) -> None:
    elements = Elements(page)
    assert elements.ids == SECTIONS
    assert elements.open == []
    assert all(address.startswith(("#", "data:")) for address in elements.addresses)
    assert not re.search(r"url\((?!#)|@import|<script", page)


def test_the_page_tells_what_was_run_and_what_came_out(reported: run.Result, page: str) -> None:
    assert f"{reported.mean:.1%} ± {reported.std:.1%}" in page
    assert "<th><b>embedding_dim</b></th><td>4</td>" in page
    assert "<th>dropout</th><td>0.5</td>" in page
    assert "<td>a &lt; b</td>" in page


def test_the_seconds_of_an_epoch_are_those_of_what_was_done_in_it(reported: run.Result) -> None:
    for epoch in (epoch for trial in reported.history for epoch in trial):
        assert epoch.spent is not None
        assert sum(seconds for (seconds,) in epoch.spent.values()) == pytest.approx(epoch.seconds, rel=0.1)
        done = {kind for kind, (seconds,) in epoch.spent.items() if seconds}
        assert done == {"compute", "batches", "lookup", "update", "evaluation"}  # no features, and nobody to wait for


def browse(page: Path, folder: Path) -> tuple[str, list[str], str]:
    """Open a page in a browser; return what its console says, what the page asks for, and what it became."""
    assert BROWSER is not None
    log = folder / f"{page.stem}.json"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder}"]
    command = [BROWSER, *quiet, f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    asked = re.findall(r'"initiator":"(?!not an origin).*?"url":"([^"]*)"', log.read_text())  # the others are Chrome's
    return "\n".join(re.findall(r"CONSOLE.*", shown.stderr)), asked, shown.stdout


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_a_browser_shows_the_page_without_errors_and_without_the_network(
    reported: run.Result, page: str, tmp_path: Path
) -> None:
    console, asked, shown = browse(reported.folder / "report.html", tmp_path)
    assert (console, asked) == ("", [])
    assert shown.count("<svg") == 3
    # That nothing is seen says little unless something would be, and would be refused.
    other = tmp_path / "other.html"
    other.write_text(page.replace("<main>", '<main><img src="http://127.0.0.1:9/picture.png">'))
    assert "violates the following Content Security Policy" in browse(other, tmp_path)[0]
    other.write_text(re.sub("<meta http-equiv.*", "", other.read_text()))
    assert set(browse(other, tmp_path)[1]) == {"http://127.0.0.1:9/picture.png"}


def test_tensorboard_reads_the_numbers_of_the_metrics(reported: run.Result) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulators.EventAccumulator(str(reported.folder)).Reload()
    lines = [json.loads(line) for line in (reported.folder / "metrics.jsonl").read_text().splitlines()]
    names: dict[str, Callable[[dict[str, Any]], float]] = {
        "loss": lambda line: float(line["loss"]),
        "score/test": lambda line: float(line["test"]),
        "speed/rows_per_second": lambda line: float(line["rows_per_second"]),
        "lookup/rank_0": lambda line: float(line["spent"]["lookup"][0]),
    }
    for name, number in names.items():
        for trial in (0, 1):
            scalars = read.Scalars(f"trial_{trial}/{name}")
            expected = [(line["epoch"], number(line)) for line in lines if line["trial"] == trial]
            assert [scalar.step for scalar in scalars] == [step for step, _ in expected]
            assert [scalar.value for scalar in scalars] == pytest.approx([value for _, value in expected])


def test_without_tensorboard_its_option_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"TensorBoard is not installed: pip install 'distgnn\[tensorboard\]'"):
        train(out=str(tmp_path), tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_without_the_option_nothing_is_timed(tmp_path: Path) -> None:
    result = train(out=str(tmp_path), epochs=1)
    assert result.history[0][0].spent is None
    assert not (result.folder / "report.html").exists()
