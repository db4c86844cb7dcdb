"""airrep-infer: the group of the commands; each has a file of its name beside this one."""

from __future__ import annotations

import click

from airrep_infer.cli.attribute import attribute
from airrep_infer.cli.compact import compact
from airrep_infer.cli.embed import embed
from airrep_infer.cli.index import index
from airrep_infer.cli.info import info
from airrep_infer.cli.merge import merge
from airrep_infer.cli.report import report
from airrep_infer.cli.select import select
from airrep_infer.command import Commands


@click.group(cls=Commands)
@click.version_option(package_name="airrep", prog_name="airrep-infer")
def main() -> None:
    """Which training data made my language model do this?

    \b
    airrep-infer embed train.jsonl --model bundle -o train.store
    airrep-infer attribute --train train.store --query bad-answers.jsonl --model bundle -k 10
    """


for command in (embed, attribute, select, merge, compact, index, report, info):
    main.add_command(command)
