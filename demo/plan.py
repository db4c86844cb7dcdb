"""Write the plan of the demo's label run: which rows of demo/data/examples.jsonl go into which subset.

    python -m demo.plan [-o demo/data/subsets.jsonl] [--splits 5 --rounds 2 --subsets 20 ...]

The last split measures the 96 queries and is for testing; the others measure the dev rows and train the
encoder. A split's pool holds every planted row, because what a row does is only seen where it is drawn
often, and a share of the other training rows. The training splits deal these among them, so that between
them they draw on all; the last split's share is chosen anew.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from airrep_infer.errors import InputError
from airrep_train.label import Indices, Subset, SubsetPlan, write_subsets
from demo.corpus import DATA, Corpus, build_corpus, shuffled


@dataclass(frozen=True)
class PlanOptions:
    """Sizes.

    Attributes:
        splits: the last one measures the queries.
        rounds, subsets: of each split are drawn `rounds` times `subsets`; one more round leaves those before
            as they are, so that a label run can be added to.
        subset_size: training rows in each subset.
        pool_size: training rows that a split's subsets are drawn from, planted rows included.
        dev_size: dev rows of each split but the last.
        seed: of the draw.
    """

    splits: int = 6
    rounds: int = 2
    subsets: int = 20
    subset_size: int = 48
    pool_size: int = 360
    dev_size: int = 96
    seed: int = 0


def plan_labels(corpus: Corpus, options: PlanOptions) -> SubsetPlan:
    """Draw the subsets; the same arguments give the same plan on every machine and Python.

    Raises:
        InputError: a size is too small or exceeds what there is.
    """
    _check(corpus, options)
    rng = random.Random(options.seed)
    bad_ids = {bad.id for bad in corpus.planted}
    bad = [line for line, row in enumerate(corpus.train) if row.id in bad_ids]
    deck = shuffled(rng, [line for line, row in enumerate(corpus.train) if row.id not in bad_ids])
    share = options.pool_size - len(bad)
    first_dev = len(corpus.train)
    first_query = first_dev + len(corpus.dev)

    subsets: dict[int, list[Subset]] = {}
    pools: dict[int, list[int]] = {}
    dev: dict[int, Indices] = {}

    def draw(split: int) -> None:
        for _ in range(options.subsets):
            drawn = sorted(shuffled(rng, pools[split])[: options.subset_size])
            subsets[split].append(Subset(f"{split}-{len(subsets[split])}", split, np.array(drawn)))

    for split in range(options.splits):
        if split < options.splits - 1:
            dealt = [deck[(split * share + n) % len(deck)] for n in range(share)]
            measured = [(split * options.dev_size + n) % len(corpus.dev) for n in range(options.dev_size)]
            dev[split] = np.array(measured) + first_dev
        else:
            dealt = shuffled(rng, deck)[:share]
            dev[split] = np.arange(len(corpus.queries)) + first_query
        subsets[split], pools[split] = [], bad + dealt
        draw(split)
    for _ in range(options.rounds - 1):
        for split in pools:
            draw(split)
    return SubsetPlan(tuple(subset for split in subsets.values() for subset in split), dev)


def _check(corpus: Corpus, options: PlanOptions) -> None:
    least = {"splits": 2, "pool_size": len(corpus.planted) + 1, "seed": 0}
    most = {
        "pool_size": len(corpus.train),
        "subset_size": options.pool_size,
        "dev_size": len(corpus.dev),
    }
    for name, value in asdict(options).items():
        low, high = least.get(name, 1), most.get(name, value)
        if not low <= value <= high:
            limit = f"at least {low}" if value < low else f"at most {high}"
            raise InputError(f"{name.replace('_', ' ')} must be {limit}, got {value}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=DATA / "subsets.jsonl")
    for field in fields(PlanOptions):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    values = vars(parser.parse_args())
    output = values.pop("output")
    try:
        plan = plan_labels(build_corpus(), PlanOptions(**values))
    except InputError as error:
        parser.error(str(error))
    write_subsets(output, plan)
    print(f"{output}: {len(plan.subsets)} subsets in {len(plan.dev)} splits")


if __name__ == "__main__":
    main()
