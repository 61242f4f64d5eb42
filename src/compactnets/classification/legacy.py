"""Convert the MENet repository's checkpoints."""

from __future__ import annotations

import hashlib
from pathlib import Path

from timm.data import ImageNetInfo

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.console import say
from compactnets.data.presets import IMAGENET
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.folders import check_file
from compactnets.locks import own_file
from compactnets.models.legacy import load_legacy, say_form
from compactnets.models.pretrained import authors_files
from compactnets.models.registry import create_model
from compactnets.training.checkpoint import load_weights, save_checkpoint


def convert(legacy: str | Path, name: str, output: str | Path) -> CheckpointRecord:
    """Read a checkpoint of the MENet repository, check it against the network ``name`` and write it as a compactnets
    checkpoint.

    The record states ImageNet-1k: its 1,000 classes by WordNet identifier, with readable labels beside them, and the
    evaluation preprocessing of the paper (section IV-A1: shorter edge 256, centre crop 224).

    Raises:
        InputError: a file that :func:`compactnets.models.legacy.load_legacy` rejects, or weights of a network other
            than ``name``.
    """
    legacy = as_path(legacy)
    output = as_path(output)
    check_file(output)
    state_dict = load_legacy(legacy)
    classifier = state_dict.get("classifier.weight")
    num_classes = 1000 if classifier is None else len(classifier)
    arguments = {"num_classes": num_classes, "in_chans": 3}
    model = create_model(name, **arguments)
    load_weights(model, say_form(state_dict), name, legacy)
    known = authors_files().get(name, {}).get("sha256")
    if known and hashlib.sha256(legacy.read_bytes()).hexdigest() != known:
        say(f"{legacy} is not the authors' {name} whose results were checked here (sha256 differs)")
    imagenet = ImageNetInfo()
    if num_classes != imagenet.num_classes():
        raise InputError(
            f"{legacy} has {num_classes} classes; the MENet repository's networks have the 1,000 of ImageNet"
        )
    record = CheckpointRecord(
        model=name,
        arguments=arguments,
        class_names=imagenet.label_names(),
        class_labels=[imagenet.index_to_description(index) for index in range(num_classes)],
        preprocess=IMAGENET.to_dict(),
        source=f"converted from {legacy.name} of https://github.com/clavichord93/MENet",
        license="none stated by its authors",
        versions=software_versions(),
    )
    with own_file(output):
        save_checkpoint(output, model.state_dict(), record)
    return record
