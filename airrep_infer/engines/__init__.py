"""Where embed and attribute run: in this process, in several processes, or on a Ray cluster."""

from airrep_infer.engines.engine import Engine, EngineName
from airrep_infer.engines.ray_cluster import Shared, connect_ray, divide_cluster, import_ray, ray_result

__all__ = [
    "Engine",
    "EngineName",
    "Shared",
    "connect_ray",
    "divide_cluster",
    "import_ray",
    "ray_result",
]
