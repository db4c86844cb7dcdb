"""Labels: which subsets the target is fine-tuned on, the label run, and reading what it measured."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_train.label.options import LabelEngine, LabelOptions, SampleOptions

if TYPE_CHECKING:
    from airrep_train.label.base_losses import base_path
    from airrep_train.label.lds_file import LdsTruth, read_lds
    from airrep_train.label.loss_files import LabelledSplit, LossRow, read_losses
    from airrep_train.label.records import Losses
    from airrep_train.label.run import LabelSummary, label, run_tasks, with_template
    from airrep_train.label.run_record import RunRecord, check_labels
    from airrep_train.label.subsets import (
        Indices,
        Subset,
        SubsetPlan,
        describe_near_copies,
        read_subsets,
        sample_subsets,
        write_subsets,
    )
    from airrep_train.label.tasks import Task, check_repeat

__all__ = [
    "Indices",
    "LabelEngine",
    "LabelOptions",
    "LabelSummary",
    "LabelledSplit",
    "LdsTruth",
    "LossRow",
    "Losses",
    "RunRecord",
    "SampleOptions",
    "Subset",
    "SubsetPlan",
    "Task",
    "base_path",
    "check_labels",
    "check_repeat",
    "describe_near_copies",
    "label",
    "read_lds",
    "read_losses",
    "read_subsets",
    "run_tasks",
    "sample_subsets",
    "with_template",
    "write_subsets",
]

__getattr__ = lazy_door(
    __name__,
    {
        "Indices": "subsets",
        "LabelSummary": "run",
        "LabelledSplit": "loss_files",
        "LdsTruth": "lds_file",
        "LossRow": "loss_files",
        "Losses": "records",
        "RunRecord": "run_record",
        "Subset": "subsets",
        "SubsetPlan": "subsets",
        "Task": "tasks",
        "base_path": "base_losses",
        "check_labels": "run_record",
        "check_repeat": "tasks",
        "describe_near_copies": "subsets",
        "label": "run",
        "read_lds": "lds_file",
        "read_losses": "loss_files",
        "read_subsets": "subsets",
        "run_tasks": "run",
        "sample_subsets": "subsets",
        "with_template": "run",
        "write_subsets": "subsets",
    },
)
