"""The encoder: its configuration, its network, and the folders that it is loaded from and saved to."""

from airrep_train.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from airrep_train.model.config import AirRepConfig
from airrep_train.model.encoding import TableEncoder, TokenTable, tokenize
from airrep_train.model.network import AirRepModel
from airrep_train.model.pooling import POOLING
from airrep_train.model.sentence_writer import write_sentence_folder

__all__ = [
    "POOLING",
    "AirRepConfig",
    "AirRepModel",
    "Checkpoint",
    "TableEncoder",
    "TokenTable",
    "load_checkpoint",
    "save_checkpoint",
    "tokenize",
    "write_sentence_folder",
]
