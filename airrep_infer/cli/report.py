"""airrep-infer report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from airrep_infer.command import Command, argument_option, check_inputs, check_output, say
from airrep_infer.errors import InputError
from airrep_infer.progress import show_progress
from airrep_infer.report import write_report
from airrep_infer.rows import check_suffix, reading_options

_FILES: dict[str, Any] = {"multiple": True, "required": True, "metavar": "EXAMPLES"}


@click.command(
    cls=Command,
    epilog="Example: airrep-infer report out.jsonl --train train.jsonl --query q.jsonl -o report.html",
)
@click.argument("attributions", metavar="OUT.jsonl")
@click.option("--train", **_FILES, help="The JSONL of the training rows; more than once for more files.")
@click.option("--query", **_FILES, help="The JSONL of the queries; more than once for more files.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="HTML", help="The page."
)
@reading_options
@click.option("--by", metavar="FIELD", help="The rows' field that groups queries and training rows.")
@argument_option(write_report, "title", "What the page is called.")
@click.option(
    "--fact", "facts", multiple=True, metavar="NAME=VALUE", help="Stated at the top; more than once for more."
)
@argument_option(write_report, "note", "What the page says first, as a paragraph.")
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    metavar="EVALUATION.json",
    help="The JSON of `airrep-train evaluate`: its LDS is stated, with its interval.",
)
@click.option(
    "--verify",
    "verdict",
    type=click.Path(path_type=Path),
    metavar="VERDICT.json",
    help="The verdict.json of `airrep-train verify`, which the page then begins with.",
)
@argument_option(
    write_report,
    "chars",
    "Characters kept of a prompt and of a response.",
    unset="20000, or less where more than 40 million would come together",
)
def report(
    attributions: str,
    train: tuple[str, ...],
    query: tuple[str, ...],
    output: Path,
    facts: tuple[str, ...],
    verdict: Path | None,
    evaluation: Path | None,
    **how: Any,
) -> None:
    """Make one HTML page of OUT.jsonl (from attribute, or - for standard input) and the rows' texts.

    The page needs no network and opens from disk: the strongest rows for the queries; the queries with
    search, sort and filters, and for each its proponents, opponents and groups; the training rows, to be
    sorted, searched and selected; which groups of the data moved which groups of queries.
    """
    inputs = [attributions, *train, *query, verdict, evaluation]
    check_output(output, inputs)
    check_suffix(output, "HTML", ".html")
    check_inputs(inputs)
    with show_progress():
        summary = write_report(
            attributions,
            output,
            train=train,
            query=query,
            facts=_named(facts),
            verdict=verdict,
            evaluation=evaluation,
            **how,
        )
    size = f"{summary.bytes / 1e6:.1f} MB; texts longer than {summary.chars:,} characters are cut"
    say(f"{output}: {summary.queries} queries, {summary.train_rows} training rows, {size}")


def _named(facts: Iterable[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for fact in facts:
        name, _, value = (part.strip() for part in fact.partition("="))
        if not name or not value:
            raise InputError(f"--fact {fact}: expected NAME=VALUE")
        if name in named:
            raise InputError(f"--fact {fact}: {name} was given before; give each name once")
        named[name] = value
    return named
