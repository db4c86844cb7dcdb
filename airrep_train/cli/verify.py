"""airrep-train verify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from airrep_infer.command import (
    Command,
    check_inputs,
    check_output,
    click_options,
    memory_option,
    parse_shard,
    refuse_unused,
    say,
    take_options,
)
from airrep_infer.errors import InputError
from airrep_infer.progress import duration, show_progress
from airrep_infer.rows import Example, Reading, reading_options
from airrep_train.cli.shared import FILE, remote_code_option
from airrep_train.label import LabelOptions
from airrep_train.target import FineTuneOptions
from airrep_train.verify import VerifyOptions


@click.command(
    cls=Command,
    epilog="Example: airrep-train verify rows.jsonl --query bad-answers.jsonl --control good-answers.jsonl "
    "--target HuggingFaceTB/SmolLM2-135M --rows attributions.jsonl -k 20 -o verify",
)
@click.argument("examples")
@click.option("--query", required=True, help="Answers whose loss is to move (JSONL).")
@click.option("--control", help="Answers whose loss is to stay (JSONL).")
@click_options(LabelOptions, only=("target",))
@click.option(
    "--rows", type=FILE, help="The rows in question: attributions, a selection, or ids, one a line."
)
@click.option(
    "--store", type=FILE, help="In place of --rows: attribute the queries to this store, with --model."
)
@click.option("--model", type=FILE, help="With --store: the bundle.")
@click.option(
    "-k", type=click.IntRange(min=1), help="Take so many rows [default: 20 of attributions, all of a list]."
)
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True), help="Take this share of EXAMPLES instead."
)
@click.option("--pool", type=FILE, help="Ids of the rows to train on, one a line [default: all of EXAMPLES].")
@click.option(
    "--base", type=FILE, help="With --add: ids of the rows that every arm trains on [default: none]."
)
@reading_options
@click_options(VerifyOptions)
@click.option("-o", "--output", required=True, type=FILE, help="The folder to make, or to resume.")
@click.option("--dry-run", is_flag=True, help="Measure one arm, keep it, and say how long all take.")
@click_options(FineTuneOptions)
@click.option("--shard", metavar="I/N", default="1/1", callback=parse_shard, help="Only part I of N.")
@click_options(LabelOptions, only=("engine", "workers", "device"))
@memory_option
@remote_code_option
def verify(
    examples: str,
    query: str,
    control: str | None,
    rows: Path | None,
    store: Path | None,
    model: Path | None,
    k: int | None,
    share: float | None,
    pool: Path | None,
    base: Path | None,
    output: Path,
    reading: Reading,
    dry_run: bool,
    shard: tuple[int, int],
    **values: Any,
) -> None:
    """Prove what rows do: fine-tune the target without them, and without as many others.

    The target is fine-tuned on EXAMPLES, on EXAMPLES without the named rows, and without as many random ones
    of about the same lengths, each under the same seeds; the losses of the queries and the controls say what
    the rows do beyond others. --add is the mirror image: on --base, with the named rows added, and with
    random ones. Started again with the same arguments, it resumes where it was stopped.
    """
    unused = {} if store else {"model": "--store"}
    unused |= {} if values["add"] else {"base": "--add"}
    unused |= {} if values["generate"] else {"answer_tokens": "--generate"}
    refuse_unused(unused)
    source, options = take_options(LabelOptions, values), take_options(VerifyOptions, values)
    recipe = take_options(FineTuneOptions, values)
    if (rows is None) == (store is None) or (model is None) != (store is None):
        raise InputError("give the rows in question: either --rows FILE, or --store STORE --model BUNDLE")
    if k is not None and share is not None:
        raise InputError("-k and --share exclude each other: give one")
    inputs = [examples, query, control, rows, store, model, pool, base]
    check_output(output, [*inputs, source.target], folder=True)
    check_inputs(inputs)

    from airrep_infer.rows import read_examples
    from airrep_train.verify import VerifyRows, count_of, read_named_rows
    from airrep_train.verify import verify as run_verify

    train, queries = read_examples(examples, reading=reading), read_examples(query, reading=reading)
    if store is not None and model is not None:
        count = count_of(k, share, len(train))
        named = _attribute(store, model, query, count, examples, train, reading)
    else:
        assert rows is not None  # without a store they are given
        named = read_named_rows(rows, len(train), k=k, share=share, examples=train)
    asked = VerifyRows(
        train,
        queries,
        named,
        read_examples(control, reading=reading) if control else [],
        pool=None if pool is None else read_named_rows(pool, len(train), examples=train),
        base=() if base is None else read_named_rows(base, len(train), examples=train),
    )
    with show_progress() as progress:
        run = run_verify(
            asked,
            source,
            output,
            options,
            recipe,
            shard=shard,
            limit=1 if dry_run else None,
            progress=progress,
        )
    labelling = run.labelling
    measured = labelling.resumed + labelling.labelled
    line = f"{output}: {measured} of {labelling.tasks} fine-tunings measured, {labelling.labelled} now"
    if labelling.labelled and measured < labelling.tasks:
        line += f"; the others take about {duration(labelling.seconds * (labelling.tasks - measured))}"
    if labelling.cut.rows:
        line += f"; {labelling.cut}"
    say(line)
    if run.answers:
        say(f"{output / 'answers.jsonl'}: {run.answers}")
    if run.verdict is not None:
        say(*run.verdict.table().split("\n"), err=False)
    elif not dry_run:
        say(f"{output}: no verdict yet; run the other shards with the same -o")


def _attribute(
    store: Path,
    model: Path,
    query: str,
    count: int,
    source: str,
    examples: Sequence[Example],
    reading: Reading,
) -> list[str]:
    """The rows of a store that the queries are attributed to, merged as those of a file are.

    Args:
        count: how many are named.
        source: the file of the training rows.
        examples: what was read from it.

    Raises:
        InputError: a row that is named has another text in the file than in the store.
    """
    from airrep_infer import EmbeddingStore, Encoder
    from airrep_infer.rows import refuse_other_texts
    from airrep_infer.score import attribution_rows
    from airrep_infer.store import embed_rows
    from airrep_train.verify import merge_attributions

    queries = embed_rows([query], lambda: Encoder(model), "--query", reading=reading, notice=say)
    opened = EmbeddingStore.open(store)
    rows = attribution_rows(opened, queries, k=min(count, len(opened)))
    names = merge_attributions(rows, count, str(store))
    named = set(names)
    shas = {str(row.id): row.sha for row in opened.rows() if str(row.id) in named}
    refuse_other_texts(examples, shas, source, former=opened.former_hashes)
    return names
