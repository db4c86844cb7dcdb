"""A pipeline: the file that describes it, its stages, and the run that makes what is not done."""

from airrep_train.pipeline.console import Console
from airrep_train.pipeline.run import PipelineRun
from airrep_train.pipeline.toml_file import Pipeline, read_pipeline

__all__ = ["Console", "Pipeline", "PipelineRun", "read_pipeline"]
