"""airrep-infer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_args

import click

from airrep_infer import jobs
from airrep_infer.bundle import MANIFEST, Bundle
from airrep_infer.cli.index import attribution_rows, index
from airrep_infer.cli.report import report, written
from airrep_infer.cli.stores import engine_options, merge, notices_on_stderr
from airrep_infer.command import Commands, parse_shard, progress_bar
from airrep_infer.encode.encoder import WindowEncoder
from airrep_infer.engines.engine import Engine
from airrep_infer.errors import InputError
from airrep_infer.index.folder import IndexManifest, is_index
from airrep_infer.index.search import TAIL
from airrep_infer.rows.examples import ExampleReader
from airrep_infer.score.onnx_scan import OnnxScan
from airrep_infer.score.selection import Strategy
from airrep_infer.store.store import EmbeddingStore, is_store

_PATH = click.Path(path_type=Path)
_HERE = Engine()


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
@click.option("--shard", metavar="I/N", callback=parse_shard, help="Only part I of N of the rows; see merge.")
@engine_options
def embed(
    examples: tuple[str, ...],
    model: Path,
    output: Path,
    dtype: str,
    part_rows: int,
    keep: tuple[str, ...],
    on_error: Any,
    shard: tuple[int, int] | None,
    engine: Engine,
    **how: Any,
) -> None:
    """Embed EXAMPLES (JSONL, .gz, or - for standard input) into a store.

    The same command again resumes a stopped run, or adds the rows that are new.
    """
    ExampleReader(examples)  # a missing file should not wait for the model to load
    with _encoder(engine, model, how) as encoder, progress_bar("embed") as bar:
        summary = jobs.embed_files(
            examples,
            encoder,
            output,
            dtype=dtype,
            part_rows=part_rows,
            keep=keep or None,
            on_error=on_error,
            shard=shard,
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
@click.option("--index", "index_path", type=_PATH, metavar="INDEX", help="Search this: quick, approximate.")
@click.option(
    "--tail", type=click.IntRange(min=1), show_default=str(TAIL), help="With --index: rows found at each end."
)
@click.option("--show", is_flag=True, help="Print tables to read; JSONL goes to -o alone.")
@_model_options
@engine_options
def attribute(
    train: str,
    query: str,
    model: Path | None,
    output: str,
    k: int,
    by: str | None,
    groups: Path | None,
    index_path: Path | None,
    tail: int | None,
    show: bool,
    engine: Engine,
    **how: Any,
) -> None:
    """Find the training rows that raised (proponents) and lowered (opponents) each query.

    A score is the dot product of the two embeddings: above 0 the row makes the query's response more
    likely, below 0 less. One JSONL row a query. With --device cuda the GPU scores too.
    """
    if by and groups:
        raise InputError("--by and --groups exclude each other; give one")
    if index_path and (by or groups):
        raise InputError("--index finds the two ends only; the influence of groups needs the scan without it")
    if index_path and not is_store(train):
        raise InputError(f"--index needs the store that it was made of; --train {train} is not a store")
    if tail and not index_path:
        raise InputError("--tail is for --index; without it every row counts")
    if engine.name == "ray" and index_path:
        raise InputError("--engine ray spreads the scan; a search with --index takes no cluster")
    if engine.name == "ray" and not is_store(train):
        raise InputError(f"--engine ray needs a store that all nodes see; embed --train {train} first")
    with ExitStack() as stack:
        trained, queries = _open_sides(stack, train, query, model, how, engine)
        if index_path:
            found = attribution_rows(
                trained, index_path, queries, k=k, tail=tail or TAIL, threads=how["threads"]
            )
            shown = written(found, output, show)
        else:
            chosen = jobs.groups_by_field(trained, by) if by else None
            if groups:
                chosen = jobs.groups_from_file(trained, groups)
            with (
                notices_on_stderr(),
                engine.scan(how["device"]) as scan,
                progress_bar("attribute", len(trained)) as bar,
            ):
                rows = jobs.attribution_rows(
                    trained,
                    queries,
                    k=k,
                    groups=chosen,
                    threads=how["threads"],
                    progress=bar.update,
                    scan_with=scan,
                    dtype="float32" if isinstance(scan, OnnxScan) else None,
                )
            shown = written(rows, output, show)
        if show:
            from airrep_infer.report.terminal import show_attributions  # rich takes a while to import

            show_attributions(shown, (train, trained), (query, queries))


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


main.add_command(merge)
main.add_command(index)
main.add_command(report)


@main.command(epilog="Example: airrep-infer info train.store --verify")
@click.argument("path", type=_PATH)
@click.option("--verify", is_flag=True, help="Read every file and compare it to its recorded sha256.")
@click.option("--parquet", type=_PATH, metavar="OUT", help="Convert a store to a Parquet file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(path: Path, verify: bool, parquet: Path | None, as_json: bool) -> None:
    """Describe a bundle, a store or an index."""
    if is_store(path):
        store = EmbeddingStore.open(path)
        if verify:
            store.verify()
        facts = jobs.describe_store(store)
        if parquet:
            from airrep_infer.store.export import store_to_parquet

            store_to_parquet(store, parquet)
            facts["parquet"] = str(parquet)
    elif is_index(path):
        if parquet:
            raise InputError(f"{path}: --parquet converts a store; this is an index")
        manifest = IndexManifest.open(path)
        if verify:
            manifest.check_files(path)
        facts = manifest.describe(path)
    elif (path / MANIFEST).is_file():
        if parquet:
            raise InputError(f"{path}: --parquet converts a store; this is a bundle")
        bundle = Bundle.open(path)
        if verify:
            for precision in bundle.precisions:
                bundle.check_files(precision)
        facts = bundle.describe()
    else:
        raise InputError(
            f"{path}: neither a bundle (no {MANIFEST}) nor a store (no store.json) nor an "
            "index (no index.json)"
        )
    if verify:
        facts["verified"] = True
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else _readable(facts))


@contextmanager
def _encoder(engine: Engine, model: Path, how: dict[str, Any]) -> Iterator[WindowEncoder]:
    with notices_on_stderr(), engine.encoder(model, **how) as encoder:
        click.echo(f"{encoder.placement}, {encoder.space.precision}", err=True)
        yield encoder


def _open_sides(
    stack: ExitStack,
    train: str,
    query: str,
    model: Path | None,
    how: dict[str, Any],
    engine: Engine = _HERE,
) -> tuple[EmbeddingStore, EmbeddingStore]:
    if train == query == "-":
        raise InputError("--train - and --query - cannot both be standard input")
    stores = []
    with ExitStack() as started:  # workers end before the scan, which wants their cores

        @cache
        def encoder() -> WindowEncoder:
            if model is None:
                raise InputError("--model BUNDLE is needed to embed examples; or give stores of embeddings")
            return started.enter_context(_encoder(engine, model, how))

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
