"""airrep-infer."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, get_args

import click

from airrep_infer import jobs
from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.command import Commands, progress_bar
from airrep_infer.encoder import Encoder
from airrep_infer.errors import InputError
from airrep_infer.examples import ExampleReader
from airrep_infer.selection import Strategy
from airrep_infer.store import EmbeddingStore, is_store

_PATH = click.Path(path_type=Path)


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how examples are embedded."""
    options = [
        click.option("--precision", default="fp32", show_default=True, help="A precision of the bundle."),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all it may use]."),
        click.option("--batch-tokens", type=click.IntRange(min=1), help="Padded tokens in a batch."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_OUTPUT = click.option("-o", "--output", default="-", show_default="standard output", help="JSONL file.")
_TRAIN = click.option("--train", required=True, metavar="STORE|EXAMPLES", help="What may have influenced.")
_QUERY = click.option("--query", required=True, metavar="STORE|EXAMPLES", help="What is to be explained.")
_MODEL = click.option("--model", type=_PATH, metavar="BUNDLE", help="Needed where examples are given.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="airrep", prog_name="airrep-infer")
def main() -> None:
    """Which training data made my language model do this?

    \b
    airrep-infer embed train.jsonl --model bundle -o train.store
    airrep-infer attribute --train train.store --query bad-answers.jsonl --model bundle -k 10
    """


@main.command(epilog="Example: airrep-infer embed train.jsonl --model bundle -o train.store")
@click.argument("examples", nargs=-1, required=True)
@click.option("--model", required=True, type=_PATH, metavar="BUNDLE")
@click.option("-o", "--output", required=True, type=_PATH, metavar="STORE")
@_model_options
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--part-rows", type=click.IntRange(min=1), default=50_000, show_default=True)
@click.option("--keep", multiple=True, metavar="FIELD", help="Keep only these fields [default: all short].")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
def embed(
    examples: tuple[str, ...],
    model: Path,
    output: Path,
    dtype: str,
    part_rows: int,
    keep: tuple[str, ...],
    on_error: Any,
    **how: Any,
) -> None:
    """Embed EXAMPLES (JSONL, .gz, or - for standard input) into a store.

    The same command again resumes a stopped run, or adds the rows that are new.
    """
    ExampleReader(examples)  # a missing file should not wait for the model to load
    encoder = _open_encoder(model, how)
    with progress_bar("embed") as bar:
        summary = jobs.embed_files(
            examples,
            encoder,
            output,
            dtype=dtype,
            part_rows=part_rows,
            keep=keep or None,
            on_error=on_error,
            progress=bar.update,
        )
    click.echo(f"{output}: {summary.count} rows, {summary.added} added", err=True)
    if summary.rejected:
        click.echo(f"{summary.rejected} bad rows, with their reasons: {summary.rejects_file}", err=True)


@main.command(
    epilog="Example: airrep-infer attribute --train train.store --query q.jsonl --model bundle --by task"
)
@_TRAIN
@_QUERY
@_MODEL
@_OUTPUT
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Rows at each end.")
@click.option("--by", metavar="FIELD", help="Influence of the groups that share this field's value.")
@click.option("--groups", type=_PATH, metavar="FILE", help='Influence of groups: {"group", "ids"} rows.')
@_model_options
def attribute(
    train: str,
    query: str,
    model: Path | None,
    output: str,
    k: int,
    by: str | None,
    groups: Path | None,
    **how: Any,
) -> None:
    """Find the training rows that raised (proponents) and lowered (opponents) each query.

    A score is the dot product of the two embeddings: above 0 the row makes the query's response more
    likely, below 0 less. One JSONL row a query.
    """
    if by and groups:
        raise InputError("--by and --groups exclude each other; give one")
    with ExitStack() as stack:
        trained, queries = _open_sides(stack, train, query, model, how)
        chosen = jobs.groups_by_field(trained, by) if by else None
        if groups:
            chosen = jobs.groups_from_file(trained, groups)
        with progress_bar("attribute", len(trained)) as bar:
            rows = jobs.attribution_rows(
                trained, queries, k=k, groups=chosen, threads=how["threads"], progress=bar.update
            )
            jobs.write_rows(rows, output)


@main.command(
    epilog="Example: airrep-infer select --train pool.store --query goal.jsonl --model bundle -n 1000"
)
@_TRAIN
@_QUERY
@_MODEL
@_OUTPUT
@click.option("-n", required=True, type=click.IntRange(min=1), help="Rows to select.")
@click.option("--strategy", type=click.Choice(get_args(Strategy)), default="pooled", show_default=True)
@_model_options
def select(
    train: str, query: str, model: Path | None, output: str, n: int, strategy: Any, **how: Any
) -> None:
    """Select the N training rows that help a set of queries most, best first.

    \b
    pooled       attention-pooled score over the queries (the method's own group influence)
    mean, max    mean or highest score over the queries
    round-robin  queries take turns, each its best row that is left
    """
    with ExitStack() as stack:
        trained, queries = _open_sides(stack, train, query, model, how)
        with progress_bar("select", len(trained)) as bar:
            rows = jobs.selection_rows(
                trained, queries, n, strategy=strategy, threads=how["threads"], progress=bar.update
            )
            jobs.write_rows(rows, output)


@main.command(epilog="Example: airrep-infer info train.store --verify")
@click.argument("path", type=_PATH)
@click.option("--verify", is_flag=True, help="Read every file and compare it to its recorded sha256.")
@click.option("--parquet", type=_PATH, metavar="OUT", help="Convert a store to a Parquet file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(path: Path, verify: bool, parquet: Path | None, as_json: bool) -> None:
    """Describe a bundle or a store."""
    if is_store(path):
        store = EmbeddingStore.open(path)
        if verify:
            store.verify()
        facts = jobs.describe_store(store)
        if parquet:
            from airrep_infer.parquet import store_to_parquet

            store_to_parquet(store, parquet)
            facts["parquet"] = str(parquet)
    elif (path / MANIFEST).is_file():
        if parquet:
            raise InputError(f"{path}: --parquet converts a store; this is a bundle")
        bundle = Bundle.open(path)
        if verify:
            for precision in bundle.precisions:
                bundle.check_files(precision)
        facts = bundle.describe()
    else:
        raise InputError(f"{path}: neither a bundle (no {MANIFEST}) nor a store (no store.json)")
    if verify:
        facts["verified"] = True
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else _readable(facts))


def _open_encoder(model: Path, how: dict[str, Any]) -> Encoder:
    encoder = Encoder(model, **how)
    click.echo(f"{encoder.provider}, {encoder.threads} threads, {encoder.space.precision}", err=True)
    return encoder


def _open_sides(
    stack: ExitStack, train: str, query: str, model: Path | None, how: dict[str, Any]
) -> tuple[EmbeddingStore, EmbeddingStore]:
    @cache
    def encoder() -> Encoder:
        if model is None:
            raise InputError("--model BUNDLE is needed to embed examples; or give stores of embeddings")
        return _open_encoder(model, how)

    if train == query == "-":
        raise InputError("--train - and --query - cannot both be standard input")
    stores = []
    for source, what in ((train, "--train"), (query, "--query")):
        with progress_bar(f"embed {what}") as bar:
            stores.append(stack.enter_context(jobs.open_source(source, encoder, what, bar.update)))
    if model is not None:
        bundle = Bundle.open(model)
        for store in stores:
            if store.space.fingerprint != bundle.fingerprint:
                raise InputError(
                    f"{store.path}: made with model {store.space.fingerprint[:16]}..., "
                    f"but --model {model} is "
                    f"{bundle.fingerprint[:16]}...; use the store's own bundle or embed the rows again"
                )
    return stores[0], stores[1]


def _readable(facts: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _readable(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)
