"""The networks: importing this package registers the families with timm."""

from compactnets.models import fifteen, menet, muffnet, shufflenet

__all__ = ["fifteen", "menet", "muffnet", "shufflenet"]
