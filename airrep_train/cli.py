"""airrep-train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from airrep_infer.command import Commands, check_output, parse_shard, progress_bar
from airrep_train.cli_gradients import gradients

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}
_FILE = click.Path(path_type=Path)


@click.group(cls=Commands, context_settings=_CONTEXT)
@click.version_option(package_name="airrep", prog_name="airrep-train")
def main() -> None:
    """Learn an AirRep encoder from what subsets of data really do to a language model.

    \b
    airrep-train sample data.jsonl -o subsets.jsonl
    airrep-train label data.jsonl --subsets subsets.jsonl --target MODEL -o losses.jsonl
    airrep-train gradients data.jsonl --target MODEL -o grads
    airrep-train fit data.jsonl --subsets subsets.jsonl --losses losses.jsonl --base ENCODER -o checkpoint
    airrep-train run pipeline.toml    (all of it from one file)
    """


main.add_command(gradients)


@main.command(
    epilog="Example: airrep-train sample data.jsonl -o subsets.jsonl --splits 5 --dev-size 192 "
    "--pool-size 3000 --subset-size 64 --subsets 40"
)
@click.argument("examples")
@click.option("-o", "--output", required=True, type=_FILE, help="The subsets.jsonl to write.")
@click.option("--splits", type=int, default=10, help="Splits, each with a dev set and a pool of its own.")
@click.option("--dev-size", type=int, default=192, help="Examples whose losses are measured, per split.")
@click.option("--pool-size", type=int, default=3000, help="Other examples that subsets are drawn from.")
@click.option("--subset-size", type=int, default=64, help="Examples in each subset.")
@click.option("--subsets", type=int, default=40, help="Subsets per split.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the draw.")
def sample(examples: str, output: Path, **options: Any) -> None:
    """Draw dev sets and subsets of EXAMPLES (JSONL) to fine-tune a target on."""
    from airrep_infer.rows.examples import ExampleReader
    from airrep_train.label.subsets import SampleOptions, sample_subsets, write_subsets

    check_output(output, [examples])
    plan = sample_subsets(sum(1 for _ in ExampleReader([examples])), SampleOptions(**options))
    write_subsets(output, plan)
    click.echo(f"{output}: {len(plan.subsets)} subsets in {len(plan.dev)} splits", err=True)


@main.command(
    epilog="Example: airrep-train label data.jsonl --subsets subsets.jsonl "
    "--target HuggingFaceTB/SmolLM2-135M -o losses.jsonl"
)
@click.argument("examples")
@click.option("--subsets", required=True, type=_FILE, help="What `airrep-train sample` wrote.")
@click.option("--target", required=True, help="Causal LM: a folder, a hub id, or a .gguf file.")
@click.option("-o", "--output", required=True, type=_FILE, help="The losses.jsonl to append to.")
@click.option("--epochs", type=int, default=1, help="Passes over each subset.")
@click.option("--lr", "learning_rate", type=float, default=1e-4, help="AdamW's learning rate.")
@click.option("--batch-size", type=int, default=8, help="Examples a step.")
@click.option("--max-length", type=int, default=512, help="Tokens of an example; the rest is cut off.")
@click.option("--freeze-embeddings", is_flag=True, help="Do not train the input embeddings.")
@click.option("--lora-rank", type=int, help="Train LoRA adapters of this rank instead (needs peft).")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, a third more time.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    help="bfloat16: autocast over float32 weights; float32 is faster on CPUs without AVX-512 BF16 and AMX.",
)
@click.option("--bos/--no-bos", default=True, help="Start each text with the tokenizer's BOS, if any.")
@click.option("--eos/--no-eos", default=False, help="End each response with EOS.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Base seed; each subset gets its own.")
@click.option("--repeat", type=click.IntRange(min=0), default=0, help="Subsets per split to label twice.")
@click.option("--shard", metavar="I/N", default="1/1", callback=parse_shard, help="Only part I of N.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many new labels.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", help="Where it runs.")
@click.option("--workers", type=click.IntRange(min=1), help="Ray actors [default: one per GPU or node].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device.")
def label(
    examples: str,
    subsets: Path,
    target: str,
    output: Path,
    repeat: int,
    shard: tuple[int, int],
    limit: int | None,
    engine: Any,
    workers: int | None,
    device: str,
    **options: Any,
) -> None:
    """Fine-tune the target on every subset and measure its dev losses.

    Started again with the same arguments, it goes on where it was stopped. With --shard I/N, give each
    part an output of its own; `fit` and `evaluate` take them together, or join them with `cat`.
    """
    from airrep_infer.rows.examples import read_examples
    from airrep_train.label.run import label as run_labels
    from airrep_train.label.subsets import read_subsets
    from airrep_train.target import FineTuneOptions

    check_output(output, [examples, subsets, target])
    settings = FineTuneOptions(**options)
    rows = read_examples(examples)
    plan = read_subsets(subsets, len(rows))
    with progress_bar("label", unit="subset") as bar:

        def show(there: int, total: int) -> None:
            bar.total = total
            bar.update(there - bar.n)

        summary = run_labels(
            rows,
            plan,
            target,
            output,
            settings,
            repeat=repeat,
            shard=shard,
            limit=limit,
            engine=engine,
            workers=workers,
            device=device,
            on_progress=show,
        )
    state = f"{summary.resumed + summary.labelled} of {summary.tasks} labelled, {summary.labelled} now"
    pace = f", {summary.seconds:.1f} s each" if summary.labelled else ""
    lost = f"; {summary.unknown} losses unknown (no response token left, or diverged)" * bool(summary.unknown)
    click.echo(f"{output}: {state}{pace}{lost}", err=True)


@main.command(
    epilog="Example: airrep-train fit data.jsonl --subsets subsets.jsonl --losses losses.jsonl "
    "--base sentence-transformers/all-MiniLM-L6-v2 -o checkpoint. "
    'On several GPUs: accelerate launch "$(command -v airrep-train)" fit ...'
)
@click.argument("examples")
@click.option("--subsets", required=True, type=_FILE, help="What `airrep-train sample` wrote.")
@click.option(
    "--losses", required=True, multiple=True, type=_FILE, help="What `label` wrote; repeat it for shards."
)
@click.option("--base", required=True, help="Encoder to start from: a folder or a hub id.")
@click.option("-o", "--output", required=True, type=_FILE, help="Folder of the checkpoint to make.")
@click.option("--partial", is_flag=True, help="Train on the subsets labelled so far.")
@click.option("--max-tokens", type=int, help="Cut texts to this many tokens [default: the encoder's].")
@click.option("--epochs", type=int, default=6, help="Passes over the training subsets.")
@click.option("--subsets-per-step", type=int, default=10, help="Subsets of one split in a step.")
@click.option("--dev-per-step", type=int, default=192, help="Dev examples of the split in a step.")
@click.option("--lr", "learning_rate", type=float, default=1e-4, help="Peak learning rate of the encoder.")
@click.option("--validation", type=int, multiple=True, help="dev_id that validates [default: the last].")
@click.option("--test", type=int, multiple=True, help="dev_id left for `evaluate`: not trained on.")
@click.option(
    "--centre/--no-centre", default=True, help="Start a plain encoder with its mean embedding subtracted."
)
@click.option("--patience", type=int, default=3, help="Epochs without a better validation LDS to stop after.")
@click.option("--freeze-embeddings", is_flag=True, help="Do not train the token embeddings.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Autocast.")
@click.option("--token-budget", type=int, default=2048, help="Tokens encoded at once; bounds memory.")
@click.option(
    "--activation-gb",
    type=float,
    help="Memory (GB) a process spends to compute less [default: half of the free].",
)
@click.option("--tracker", "trackers", multiple=True, help="Tracker of accelerate, such as tensorboard.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the order of the subsets.")
def fit(
    examples: str,
    subsets: Path,
    losses: tuple[Path, ...],
    base: str,
    output: Path,
    partial: bool,
    max_tokens: int | None,
    **options: Any,
) -> None:
    """Train an encoder to rank subsets by what they do to the target's losses on EXAMPLES.

    Started again with the same arguments, it goes on where it was stopped.
    """
    from airrep_infer.rows.examples import read_examples
    from airrep_train.fit.options import FitOptions
    from airrep_train.fit.trainer import fit as run_fit
    from airrep_train.label.loss_files import read_losses
    from airrep_train.label.subsets import read_subsets
    from airrep_train.model import load_checkpoint

    check_output(output, [examples, subsets, *losses, base], folder=True)
    settings = FitOptions(**options)
    rows = read_examples(examples)
    splits = read_losses(read_subsets(subsets, len(rows)), *losses, partial=partial)
    checkpoint = load_checkpoint(base, max_tokens=max_tokens)
    with progress_bar("fit", unit="step") as bar:

        def show(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        result = run_fit(rows, splits, checkpoint, output, settings, on_progress=show)
    click.echo(
        f"{output}: validation LDS {result.lds:.3f} (epoch {result.best_epoch} of {result.epochs}; "
        f"untrained {result.untrained_lds:.3f}), beta {result.beta:.3f}, {result.seconds:.0f} s",
        err=True,
    )


@main.command(
    epilog="Example: airrep-train evaluate data.jsonl --subsets subsets.jsonl --losses losses.jsonl "
    "--split 4 --model checkpoint --baseline tfidf --baseline bm25 --baseline ENCODER:cosine+mean "
    "--json lds.json. "
    "Or: airrep-train evaluate --train pool.jsonl --query queries.jsonl --lds lds.jsonl --model bundle"
)
@click.argument("examples", required=False)
@click.option(
    "--model", required=True, multiple=True, help="Checkpoint, bundle, or store; repeat it for more stores."
)
@click.option("--subsets", type=_FILE, help="What `airrep-train sample` wrote.")
@click.option("--losses", multiple=True, type=_FILE, help="What `label` wrote; repeat it for shards.")
@click.option("--split", "splits", type=int, multiple=True, help="dev_id to evaluate on [default: the last].")
@click.option("--partial", is_flag=True, help="Evaluate on the subsets labelled so far.")
@click.option("--train", help="With --lds: the pool (JSONL).")
@click.option("--query", help="With --lds: the queries (JSONL).")
@click.option("--lds", type=_FILE, help='Ground truth, {"train_subset", "test_loss"} a line.')
@click.option(
    "--pooling",
    type=click.Choice(["attention", "sum", "mean", "published-eval"]),
    default="attention",
    help="Of the model; published-eval has no absolute value in the softmax.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="NAME[:dot|:cosine][+POOLING]",
    help="random, tfidf, bm25 (default +mean), or an encoder (default :dot+attention); repeatable.",
)
@click.option("--precision", default="fp32", help="Variant of the bundle.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of bootstrap and `random`.")
@click.option("--json", "json_output", type=_FILE, help="Write the result as JSON, too.")
def evaluate(
    examples: str | None,
    model: tuple[str, ...],
    subsets: Path | None,
    losses: tuple[Path, ...],
    splits: tuple[int, ...],
    partial: bool,
    train: str | None,
    query: str | None,
    lds: Path | None,
    json_output: Path | None,
    **options: Any,
) -> None:
    """Measure LDS with 95% confidence intervals, next to baselines on the same queries.

    The ground truth is a label run on EXAMPLES (--subsets, --losses), or --lds with --train and --query.
    """
    from airrep_infer.files import write_json
    from airrep_train.evaluate.evaluation import evaluate as run_evaluate
    from airrep_train.evaluate.truth import truth_from_labels, truth_from_lds

    if json_output:
        check_output(json_output, [examples, *model, subsets, *losses, train, query, lds])
    labels = bool(examples or subsets or losses or splits or partial)
    if lds and train and query and not labels:
        truth = truth_from_lds(train, query, lds)
    elif examples and subsets and losses and not (lds or train or query):
        truth = truth_from_labels(examples, subsets, losses, splits, partial=partial)
    else:
        raise click.UsageError(
            "give either EXAMPLES --subsets --losses [--split], or --train --query --lds, and nothing of both"
        )
    with progress_bar("embed") as bar:
        result = run_evaluate(model, truth, progress=bar.update, **options)
    if json_output:
        write_json(json_output, result.to_json())
    click.echo(result.table())


@main.command(epilog="Example: airrep-train run pipeline.toml --dry-run; airrep-train run pipeline.toml")
@click.argument("pipeline", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Print the plan; label one subset, to estimate the others.")
def run(pipeline: Path, dry_run: bool) -> None:
    """Make all that PIPELINE (TOML) describes: subsets, labels, checkpoint, bundle, evaluation.

    What is there for the same settings and the same inputs stays; started again, it goes on where it
    was stopped. README.md has an example of the file.
    """
    from airrep_train.pipeline.console import Console
    from airrep_train.pipeline.file import read_pipeline
    from airrep_train.pipeline.run import PipelineRun

    with Console(err=not dry_run) as console:
        work = PipelineRun(read_pipeline(pipeline), console)
        if not dry_run:
            work.run()
        elif (estimate := work.plan()) is not None:
            console.estimate(estimate)
    if work.table:
        click.echo(work.table)
