"""Settings that a gradient run would not look at: the command line refuses them."""

from __future__ import annotations

from dataclasses import fields

from airrep_infer.rows import READING_OPTIONS
from airrep_train.gradients.options import GradientOptions
from airrep_train.target import TargetOptions


def unused_by_joining() -> dict[str, str]:
    """What joining shards has no use for: names of settings, and what each is for.

    `dims` is among them, though the map is fitted then: a joined folder is continued with the settings of its
    shards, so they say it.
    """
    taking = [field.name for cls in (TargetOptions, GradientOptions) for field in fields(cls)]
    what = "gradients that are taken now, and the shards that --join names have theirs"
    unused = dict.fromkeys(taking, what)
    return unused | dict.fromkeys((*READING_OPTIONS, "shard", "warm_up_of", "allow_remote_code"), what)


def unused_by_mapping() -> dict[str, str]:
    """The same of gradients that another folder's map maps."""
    return {"dims": "a map that is fitted, and --map names one with its own dims"}
