"""compactnets: compact convolutional networks in which channel groups exchange information.

Importing the package registers its families with timm: from then on ``timm.create_model("menet_228_12x1_g3")`` works
wherever timm works.
"""

from compactnets.errors import InputError
from compactnets.models.registry import create_model, list_models

__version__ = "0.1.0"

__all__ = ["InputError", "__version__", "create_model", "list_models"]
