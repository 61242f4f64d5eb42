"""Export checkpoints to device runtimes: inference rewrites, formats, verification."""

from compactnets.deploy.artifact import Artifact, load_artifact
from compactnets.deploy.export import export
from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.record import ArtifactRecord
from compactnets.deploy.rewrite import deploy_form

__all__ = [
    "FORMATS",
    "Artifact",
    "ArtifactRecord",
    "deploy_form",
    "export",
    "load_artifact",
]
