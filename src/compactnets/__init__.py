"""compactnets: compact convolutional networks in which channel groups exchange information.

Importing the package registers its families with timm: from then on ``timm.create_model("menet_228_12x1_g3")`` works
wherever timm works.
"""

import importlib

from compactnets import telemetry

telemetry.turn_off()  # before any library that reads its variables is imported

from typing import TYPE_CHECKING, Any  # noqa: E402

from compactnets.starting import without_the_compiler  # noqa: E402

with without_the_compiler():
    importlib.import_module("timm")
    importlib.import_module("torchvision.tv_tensors")

from compactnets.errors import InputError, LimitError  # noqa: E402
from compactnets.models.registry import create_model, list_models  # noqa: E402

if TYPE_CHECKING:
    from compactnets.api import check, evaluate, export, load, predict, predict_to_parquet, profile, quantize, train
    from compactnets.catalogue import list_weights
    from compactnets.latency.benchmark import benchmark
    from compactnets.tasks.contract import Model

__version__ = "0.1.0"

# name -> module; imported on first use, so that registering the families loads neither data readers nor exporters
LAZY = {
    **dict.fromkeys(("check", "evaluate", "export", "load", "predict", "profile", "quantize", "train"), "api"),
    "predict_to_parquet": "api",
    "list_weights": "catalogue",
    "benchmark": "latency.benchmark",
    "Model": "tasks.contract",
}

__all__ = [
    "InputError",
    "LimitError",
    "Model",
    "__version__",
    "benchmark",
    "check",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "list_weights",
    "load",
    "predict",
    "predict_to_parquet",
    "profile",
    "quantize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
