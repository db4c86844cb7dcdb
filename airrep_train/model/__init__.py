"""The encoder: its configuration, its network, and the folders that it is loaded from and saved to."""

from airrep_train.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from airrep_train.model.config import AirRepConfig
from airrep_train.model.encoding import TableEncoder, TokenTable, tokenize
from airrep_train.model.network import AirRepModel

__all__ = [
    "AirRepConfig",
    "AirRepModel",
    "Checkpoint",
    "TableEncoder",
    "TokenTable",
    "load_checkpoint",
    "save_checkpoint",
    "tokenize",
]
