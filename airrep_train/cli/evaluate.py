"""airrep-train evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airrep_infer.command import (
    Command,
    check_inputs,
    check_output,
    click_options,
    memory_option,
    refuse_unused,
    say,
    take_options,
)
from airrep_infer.progress import show_progress
from airrep_infer.rows import Reading, reading_options
from airrep_train.cli.shared import FILE
from airrep_train.evaluate import BY_GRADIENTS, EvaluateOptions, KnownOptions

if TYPE_CHECKING:  # torch and SciPy load only where something is evaluated
    from airrep_train.evaluate import Compared, Evaluation, RankingEvaluation


@click.command(
    cls=Command,
    epilog="Example: airrep-train evaluate data.jsonl --subsets subsets.jsonl --losses losses.jsonl "
    "--split 4 --model checkpoint --baseline tfidf --baseline bm25 --baseline ENCODER:cosine+mean "
    "--json lds.json. "
    "Or: airrep-train evaluate --train pool.jsonl --query queries.jsonl --lds lds.jsonl --model bundle. "
    "Or, without labels: airrep-train evaluate rows.jsonl --query bad_answers.jsonl --marked bad "
    "--model bundle --baseline bm25",
)
@click.argument("examples", required=False)
@click.option(
    "--model", required=True, multiple=True, help="Checkpoint, bundle, or store; repeat it for more stores."
)
@click.option("--subsets", type=FILE, help="What `airrep-train sample` wrote.")
@click.option("--losses", multiple=True, type=FILE, help="What `label` wrote; repeat it for several.")
@click.option("--partial", is_flag=True, help="Evaluate on the subsets labelled so far.")
@click.option("--train", help="With --lds: the pool (JSONL).")
@click.option("--query", help="With --lds, --known or --marked: the queries (JSONL).")
@click.option("--lds", type=FILE, help='Ground truth, {"train_subset", "test_loss"} a line.')
@click_options(KnownOptions)
@reading_options
@click_options(EvaluateOptions)
@click.option(
    "--gradients",
    type=FILE,
    multiple=True,
    help=f"Gradient folder, for the baselines {', '.join(BY_GRADIENTS)}; repeat it for several.",
)
@click.option(
    "--scores",
    type=FILE,
    multiple=True,
    help="Another method: FILE.npy (Q, N), LESS's FILE.pt, or bergson's folder, beside FILE.ids.json; "
    "repeatable.",
)
@click.option("--precision", default="fp32", help="Variant of the bundle.")
@click.option("--json", "json_output", type=FILE, help="Write the result as JSON, too.")
@memory_option
def evaluate(
    examples: str | None,
    model: tuple[str, ...],
    subsets: Path | None,
    losses: tuple[Path, ...],
    partial: bool,
    train: str | None,
    query: str | None,
    lds: Path | None,
    gradients: tuple[Path, ...],
    scores: tuple[Path, ...],
    precision: str,
    reading: Reading,
    json_output: Path | None,
    **values: Any,
) -> None:
    """Measure LDS, or how highly known rows are ranked, with 95% confidence intervals, next to baselines.

    LDS is measured on a label run on EXAMPLES (--subsets, --losses), or on --lds with --train and --query.
    Without labels, --known or --marked says which rows of EXAMPLES the queries should find.
    """
    options, known = take_options(EvaluateOptions, values), take_options(KnownOptions, values)
    if json_output:
        inputs = [examples, *model, subsets, *losses, train, query, lds, *gradients, *scores]
        check_output(json_output, [*inputs, known.known, known.marked])
    check_inputs([examples, subsets, *losses, train, query, lds, *gradients])

    from airrep_infer.files import write_json
    from airrep_train.evaluate import evaluate as run_evaluate
    from airrep_train.evaluate import (
        evaluate_known,
        is_bundle,
        truth_from_known,
        truth_from_labels,
        truth_from_lds,
    )

    if not any(map(is_bundle, model)):
        refuse_unused({"precision": "a bundle, and --model names none"})
    refuse_unused(
        {"pooling": "subsets, and --known and --marked rank single rows"}
        if known.asked
        else {"k": "--known and --marked, which rank single rows"}
    )
    labels = bool(subsets or losses or options.splits or partial)
    result: Evaluation | RankingEvaluation
    with show_progress() as progress:
        compared: Compared = {
            "baselines": options.baselines or (),
            "gradients": gradients,
            "scores": scores,
            "on_truncate": options.on_truncate,
            "precision": precision,
            "progress": progress,
        }
        if known.asked and examples and query and not (labels or train or lds):
            rows = truth_from_known(examples, query, known, reading=reading)
            result = evaluate_known(model, rows, k=known.k, seed=options.seed, **compared)
        elif known != KnownOptions():
            raise click.UsageError(
                "-k, --known and --marked rank single rows: give EXAMPLES --query with --known or --marked, "
                "and nothing of labels"
            )
        else:
            if lds and train and query and not (labels or examples):
                truth = truth_from_lds(train, query, lds, reading=reading)
            elif examples and subsets and losses and not (lds or train or query):
                truth = truth_from_labels(
                    examples, subsets, losses, options.splits, partial=partial, reading=reading
                )
            else:
                raise click.UsageError(
                    "give either EXAMPLES --subsets --losses [--split], or --train --query --lds, and "
                    "nothing of both; or EXAMPLES --query with --known or --marked"
                )
            for note in truth.notes:
                say(note)
            result = run_evaluate(model, truth, pooling=options.pooling, seed=options.seed, **compared)
    if json_output:
        write_json(json_output, result.to_json())
    say(*result.table().split("\n"), err=False)
    say(*result.cut_lines())
