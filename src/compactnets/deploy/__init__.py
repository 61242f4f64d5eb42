"""From a checkpoint to the runtimes of devices: deploy form, export, verification."""

from compactnets.deploy.artifact import Artifact, load_artifact
from compactnets.deploy.export import export
from compactnets.deploy.formats import FORMATS
from compactnets.deploy.networks import load_for_export
from compactnets.deploy.record import ArtifactRecord
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.web import build_site

__all__ = [
    "FORMATS",
    "Artifact",
    "ArtifactRecord",
    "build_site",
    "deploy_form",
    "export",
    "load_artifact",
    "load_for_export",
]
