"""airrep-infer index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from airrep_infer.cli.options import PATH, check_model, has_examples, model_option, refuse_unused_options
from airrep_infer.command import (
    Command,
    argument_option,
    check_inputs,
    check_output,
    click_options,
    memory_option,
    say,
)
from airrep_infer.encode import Encoder, EncoderOptions, check_same_space
from airrep_infer.errors import InputError
from airrep_infer.index import (
    EF_CONSTRUCTION,
    LINKS,
    MAX_EF,
    RECALL,
    AnnIndex,
    IndexManifest,
    K,
    build_index,
    measure_again,
)
from airrep_infer.progress import Progress, renamed, show_progress
from airrep_infer.rows import READING_OPTIONS, Reading, reading_options
from airrep_infer.store import EmbeddingStore, embed_rows


def _default(value: object) -> str:
    return f"the index's own, or {value}"


@click.command(
    cls=Command, epilog="Example: airrep-infer index train.store -o train.index --recall 0.95 -k 10"
)
@click.argument("store", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="INDEX")
@argument_option(build_index, "recall", "Target share of the true top k.", unset=_default(RECALL))
@argument_option(build_index, "k", "Rows that count for it.", flags=("-k",), unset=_default(K))
@click.option(
    "--query",
    multiple=True,
    metavar="STORE|EXAMPLES",
    help="Measure with these; more than once for more [default: rows of the store].",
)
@model_option
@click_options(EncoderOptions, only=["precision"])
@argument_option(build_index, "links", "Links of a vertex.", unset=_default(LINKS))
@argument_option(
    build_index, "ef_construction", "Vertices looked at to link one.", unset=_default(EF_CONSTRUCTION)
)
@argument_option(build_index, "max_ef", "Bounds the time of a search.", unset=_default(MAX_EF))
@click.option("--rebuild", is_flag=True, help="Make a new index in the place of an existing one.")
@click.option("--verify", is_flag=True, help="Only measure the recall of an existing index again.")
@argument_option(build_index, "threads", "CPU threads.", unset="all it may use")
@reading_options
@memory_option
def index(
    store: Path,
    output: Path,
    query: tuple[str, ...],
    model: Path | None,
    precision: str,
    verify: bool,
    threads: int | None,
    reading: Reading,
    **options: Any,
) -> None:
    """Index STORE for searches in milliseconds, approximate with a measured recall.

    The same command on a store that has grown adds the new rows. `ef`, what a search looks at, is
    the smallest that finds the target share of the true top k, for proponents and opponents each,
    measured against the exact scan. Needs hnswlib (pip install 'airrep[index]').
    """
    check_output(output, [store, *query, model], folder=True)
    check_inputs([*query, model])
    opened = EmbeddingStore.open(store)
    _refuse_unused(query, options if verify else ())
    existing = AnnIndex.open(output, opened) if verify else None
    with show_progress() as progress:
        measuring: dict[str, Any] = {
            "queries": _queries(opened, query, model, precision, threads, progress, reading)
            if query
            else None,
            "source": f"rows of {' and '.join(query)}",
            "threads": threads,
            "progress": progress,
        }
        if existing is None:
            made = build_index(opened, output, **measuring, **options)
        else:
            measured = measure_again(existing, **measuring)
    if existing is None:
        say(f"{output}: {_describe(made.manifest)}")
        return
    say(f"{output}: {measured}")
    if measured.missed:
        raise InputError(
            f"{output}: {measured}; below the target {measured.target}. Index the store again with --query "
            "and rows of the kind that is asked, or --rebuild it with larger --links and --ef-construction"
        )


def _refuse_unused(query: tuple[str, ...], making: Iterable[str]) -> None:
    """Refuse the options of --query where it is not given or names stores alone, and those of `making`."""
    others = dict.fromkeys(making, "making an index, and --verify only measures one")
    if not query:
        others |= dict.fromkeys(("model", "precision", *READING_OPTIONS), "--query, which is not given")
    examples = has_examples(*query)
    refuse_unused_options(embeds=examples, reads=examples, others=others)


def _describe(manifest: IndexManifest) -> str:
    """One line on an index."""
    same = manifest.rows - manifest.graph.vertices
    copies = f" ({same} of them copies)" if same else ""
    return f"{manifest.rows} rows{copies}, {manifest.measured}"


def _queries(
    store: EmbeddingStore,
    query: tuple[str, ...],
    model: Path | None,
    precision: str,
    threads: int | None,
    progress: Progress,
    reading: Reading,
) -> NDArray[np.float32]:
    """The vectors to measure the recall with."""

    def encoder() -> Encoder:
        if model is None:
            raise InputError("--model BUNDLE is needed to embed examples; or give a store of embeddings")
        return Encoder(model, precision=precision, threads=threads)

    stage = renamed(progress, "embed --query")
    queries = embed_rows(query, encoder, "--query", stage, reading=reading, notice=say)
    check_same_space(store.space, queries.space, str(store.path), queries.source)
    if model is not None:
        check_model(model, {queries.source: queries.space})
    return queries.vectors
