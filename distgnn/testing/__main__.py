"""``python -m distgnn.testing BACKEND``: the kit on an installed backend."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from textwrap import fill

import typer

from distgnn.errors import BackendError
from distgnn.storage.options import read_option
from distgnn.testing.conformance import Outcome, Report, check


def main(
    backend: str = typer.Argument(help="A name that `distgnn backends` lists."),
    *,
    ranks: int = typer.Option(1, min=1, help="Run the kit in so many processes at once, as torchrun starts them."),
    option: list[str] = typer.Option(  # noqa: B008  # typer's way
        [], "--option", "-o", metavar="NAME=VALUE", help="Open the backend with it; may be given several times."
    ),
    keyword: str = typer.Option("", "-k", metavar="EXPRESSION", help="Only the tests that match, as pytest's -k."),
    timeout: float = typer.Option(600.0, help="Seconds that several ranks may take."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Run the conformance kit on an installed backend, and report which sentences of the contract it keeps.

    Exit codes: 0, it conforms; 1, a test failed; 2, it could not be tested.

    Example: python -m distgnn.testing pyg --ranks 2
    """
    try:
        report = check(backend, ranks=ranks, options=dict(map(read_option, option)), keyword=keyword, timeout=timeout)
    except BackendError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    if not report.collected:
        typer.secho(f"error: no test ran; none matches -k {keyword!r}, or see above", err=True, fg="red")
        raise typer.Exit(2)
    typer.echo(json.dumps(as_dict(report), indent=2) if as_json else as_text(report))
    raise typer.Exit(0 if report.conforms else 1)


def as_dict(report: Report) -> dict[str, object]:
    """Give the report for a script."""
    return {
        **asdict(report),
        "outcomes": [{**asdict(each), "sentence": each.sentence} for each in report.outcomes],
        "conforms": report.conforms,
        "row": report.row,
    }


def as_text(report: Report) -> str:
    """Give the report for a reader: what failed, what was skipped, what it can do, and how it ended."""
    lines = []
    cases = Counter(each.sentence for each in report.having("failed"))
    first = {each.sentence: each for each in reversed(report.having("failed"))}
    for sentence, count in cases.items():
        more = f", in {count} cases, of which this is the first" if count > 1 else ""
        lines += ["", f"FAILED  {sentence}{more}", f"        {first[sentence].test}", *_indented(first[sentence])]
    if len(cases) > 1:
        lines += ["", "begin with the first: one fault fails many tests"]
    skipped = Counter(each.message for each in report.having("skipped"))
    for reason, count in skipped.items():
        sentences = {each.sentence: None for each in report.having("skipped") if each.message == reason}
        told = fill("; ".join(sentences), 120, initial_indent=" " * 8, subsequent_indent=" " * 8)
        lines += ["", f"skipped {count} as {reason}:", told]
    lines += ["", report.heading, report.row, ""]
    counts = ", ".join(f"{len(report.having(outcome))} {outcome}" for outcome in ("passed", "failed", "skipped"))
    on = f"on {report.ranks} rank{'s' if report.ranks > 1 else ''}"
    verdict = "conforms" if report.conforms else "does not conform"
    lines += [f"{report.backend} {verdict} {on}: {counts} of {report.collected} tests"]
    return "\n".join(lines)


def _indented(outcome: Outcome) -> list[str]:
    return [f"        {line}" for line in outcome.message.splitlines()]


if __name__ == "__main__":
    typer.run(main)
