"""The options that several commands share, and what they open: the engine, the encoder, both sides."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import click

from airrep_infer.bundle import Bundle
from airrep_infer.command import click_options, refuse_unused, say, take_options
from airrep_infer.encode import EmbeddingSpace, EncoderOptions, WindowEncoder
from airrep_infer.engines import Engine
from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, renamed
from airrep_infer.rows import AS_WRITTEN, READING_OPTIONS, Reading
from airrep_infer.score import contrast_queries
from airrep_infer.store import EmbeddedRows, EmbeddingStore, StoreRow, embed_rows, is_store, open_source

PATH = click.Path(path_type=Path)
Command = Callable[..., Any]

output_option = click.option(
    "-o", "--output", default="-", show_default="standard output", help="JSONL file, or Parquet by suffix."
)
train_option = click.option(
    "--train",
    required=True,
    multiple=True,
    metavar="STORE|EXAMPLES",
    help="What may have influenced; more than once for more.",
)
query_option = click.option(
    "--query",
    required=True,
    multiple=True,
    metavar="STORE|EXAMPLES",
    help="What is to be explained; more than once for more.",
)
model_option = click.option("--model", type=PATH, metavar="BUNDLE", help="Needed where examples are given.")


_OF_EMBEDDING = ("precision", "batch_tokens")
"""Options of `EncoderOptions` that nothing but embedding looks at. Scans use `threads` too, some `device`."""


def refuse_unused_options(
    *, embeds: bool, reads: bool, embedding: Sequence[str] = (), others: Mapping[str, str] | None = None
) -> None:
    """Refuse the shared options that the running command would not look at.

    Args:
        embeds: whether it embeds examples; where all that it was given are stores it does not.
        reads: whether it reads rows of examples.
        embedding: further parameters that only embedding would look at, in this run.
        others: further parameters that it does not look at, and what each is for.

    Raises:
        InputError: the first of them that was given.
    """
    unused: dict[str, str] = {}
    if not embeds:
        unused |= dict.fromkeys((*_OF_EMBEDDING, *embedding), "examples that are embedded; none are given")
    if not reads:
        unused |= dict.fromkeys(READING_OPTIONS, "rows that are read from examples; none are given")
    refuse_unused(unused | dict(others or {}))


def has_examples(*sources: str) -> bool:
    """Whether one of these is no store, but examples."""
    return not all(map(is_store, sources))


def sources_of_texts(
    sources: Sequence[str], rows: Sequence[str], why: str, option: str = "--train"
) -> tuple[str, ...]:
    """The files that have the texts of a side: of its files, and for its stores those of `--rows`.

    Args:
        sources: what `option` names.

    Raises:
        InputError: there is a store and no `--rows`; the message says `why`.
    """
    stores = [source for source in sources if is_store(source)]
    if stores and not rows:
        raise InputError(
            f"{why}, and {option} {stores[0]} is a store, which has none; give --rows EXAMPLES, "
            "what it was made of"
        )
    return (*(rows if stores else ()), *(source for source in sources if not is_store(source)))


def check_rows_wanted(sources: Sequence[str], rows: Sequence[str]) -> None:
    """Refuse `--rows` where no side is a store.

    Raises:
        InputError: with the first side.
    """
    if rows and not any(map(is_store, sources)):
        raise InputError(f"--rows is for a store; {sources[0]} has the texts itself")


def encoder_options(command: Command) -> Command:
    """The options that say how examples are embedded; the command gets them as `embedding`."""

    @wraps(command)
    def with_encoder(**values: Any) -> Any:
        return command(embedding=take_options(EncoderOptions, values), **values)

    return click_options(EncoderOptions)(with_encoder)


def engine_options(command: Command) -> Command:
    """The options of an `Engine`, which the command gets as `engine`."""

    @wraps(command)
    def with_engine(**values: Any) -> Any:
        return command(engine=take_options(Engine, values), **values)

    return click_options(Engine)(with_engine)


@contextmanager
def notices_on_stderr() -> Iterator[None]:
    """Keeps standard output for results: Ray prints there when a worker has died and its work is repeated."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def open_encoder(engine: Engine, model: Path, embedding: EncoderOptions) -> Iterator[WindowEncoder]:
    """An encoder, of which stderr is told where it runs."""
    with notices_on_stderr(), engine.encoder(model, **asdict(embedding)) as encoder:
        say(f"{encoder.placement}, {encoder.space.precision}")
        yield encoder


@dataclass(frozen=True)
class Sides:
    """The training rows, the queries, and with --contrast for each the row that it was contrasted with."""

    train: EmbeddingStore
    queries: EmbeddedRows
    against: tuple[StoreRow, ...] | None = None


@contextmanager
def open_sides(
    train: Sequence[str],
    query: Sequence[str],
    model: Path | None,
    embedding: EncoderOptions,
    engine: Engine,
    progress: Progress,
    query_ids: tuple[str, ...] = (),
    *,
    reading: Reading = AS_WRITTEN,
    by: Mapping[str, str] | None = None,
    contrast: str | None = None,
) -> Iterator[Sides]:
    """What `--train`, `--query` and `--contrast` name; examples are embedded with one encoder for all.

    Args:
        query: empty: the queries are the training rows of the ids `query_ids`.
        by: the fields that training rows will be grouped by, and the option that names each.
        contrast: second answers of the queries; where `reading` names an answer of preference pairs, the
            other one is read.

    Raises:
        InputError: a side cannot be used, is of another model than `--model`, or examples come without one.
    """
    if "-" in train and "-" in query:
        raise InputError("--train - and --query - cannot both be standard input")
    with ExitStack() as opened:
        with ExitStack() as workers:  # they end before the scan, which wants their cores

            @cache
            def encoder() -> WindowEncoder:
                if model is None:
                    raise InputError(
                        "--model BUNDLE is needed to embed examples; or give stores of embeddings"
                    )
                return workers.enter_context(open_encoder(engine, model, embedding))

            store = opened.enter_context(
                open_source(
                    train,
                    encoder,
                    "--train",
                    renamed(progress, "embed --train"),
                    reading=reading,
                    by=by,
                    notice=say,
                )
            )
            if not query:
                queries = EmbeddedRows.of_ids(store, query_ids)
            else:
                queries = embed_rows(
                    query,
                    encoder,
                    "--query",
                    renamed(progress, "embed --query"),
                    reading=reading,
                    notice=say,
                )
            against = None
            if contrast is not None:
                against = embed_rows(
                    [contrast],
                    encoder,
                    "--contrast",
                    renamed(progress, "embed --contrast"),
                    reading=reading.of_other_answer(),
                    notice=say,
                )
        if model is not None:
            check_model(model, {str(store.path): store.space, queries.source: queries.space})
        if against is None:
            yield Sides(store, queries)
        else:
            contrasted = contrast_queries(queries, against)
            yield Sides(store, contrasted.queries, contrasted.against)


def check_model(model: Path, spaces: Mapping[str, EmbeddingSpace]) -> None:
    """Refuse a bundle that did not make some vectors.

    Args:
        spaces: what the vectors are of, by what the user calls it.

    Raises:
        InputError: with the first such source.
    """
    fingerprint = Bundle.open(model).fingerprint
    for source, space in spaces.items():
        if space.fingerprint != fingerprint:
            raise InputError(
                f"{source}: made with model {space.fingerprint[:16]}..., but --model {model} is "
                f"{fingerprint[:16]}...; use the store's own bundle or embed the rows again"
            )
