"""AirRep export: a trained model becomes an ONNX bundle that runs without torch."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door

if TYPE_CHECKING:
    from .bundle import Reduced, export_bundle
    from .described import describe_bundle
    from .parity import cosine

__all__ = ["Reduced", "cosine", "describe_bundle", "export_bundle"]

__getattr__ = lazy_door(
    __name__,
    {"Reduced": "bundle", "cosine": "parity", "describe_bundle": "described", "export_bundle": "bundle"},
)
