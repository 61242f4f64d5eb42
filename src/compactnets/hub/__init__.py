"""Networks on the Hugging Face Hub: push a checkpoint with its record and a model card, and pull one.

A repository has ``model.safetensors`` with its record ``model.json``, ``config.json`` for timm, and ``README.md``, the
model card. Nothing here is imported, and no host asked, unless one of the two is called.
"""

from compactnets.hub.repository import Pulled, Pushed, pull, push

__all__ = ["Pulled", "Pushed", "pull", "push"]
