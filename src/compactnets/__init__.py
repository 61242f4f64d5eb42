"""compactnets: compact convolutional networks in which channel groups exchange information.

Importing the package registers its families with timm: from then on ``timm.create_model("menet_228_12x1_g3")`` works
wherever timm works.
"""

from compactnets import telemetry

telemetry.turn_off()  # before any library that reads its variables is imported

from compactnets.errors import InputError  # noqa: E402
from compactnets.models.registry import create_model, list_models  # noqa: E402

__version__ = "0.1.0"

__all__ = ["InputError", "__version__", "create_model", "list_models"]
