"""ONNX Runtime sessions: on which provider a graph runs, and why it cannot run on a GPU."""

from airrep_infer.session.session import PROVIDERS, Device, Placement, RunsOn, open_session

__all__ = ["PROVIDERS", "Device", "Placement", "RunsOn", "open_session"]
