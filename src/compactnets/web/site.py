"""The folder of a web page that runs exported networks in the browser."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import nn

import compactnets
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.networks import FRESH
from compactnets.deploy.export import export, weight_bytes
from compactnets.deploy.formats.registry import find_format
from compactnets.deploy.record import ArtifactRecord, read_artifact
from compactnets.errors import InputError
from compactnets.failures import Space, scratch_folder
from compactnets.files import as_path, json_text
from compactnets.folders import check_folder, entries, writing
from compactnets.tasks.opening import open_to_write
from compactnets.web.page import find_page

NETWORKS = "networks.json"
# scikit-learn's two sample photographs: file, what is on it, and the attribution that their licence asks for
EXAMPLES = (
    ("china.jpg", "Temple in China", "danielbuechele", "https://www.flickr.com/photos/danielbuechele/6061409035/"),
    ("flower.jpg", "Flower", "vultilion", "https://www.flickr.com/photos/vultilion/6056698931/"),
)
EXAMPLES_LICENSE = "CC BY 2.0"


class Opened(NamedTuple):
    """A network of the page: an existing artifact, or a network to export."""

    network: ArtifactRecord | nn.Module
    more: Path | CheckpointRecord  # the artifact's main file, or the network's record
    tag: str  # of named weights, NETWORK.TAG; otherwise ""


def build_site(networks: Sequence[str], output: str | Path, *, page: str | Path | None = None) -> dict[str, Any]:
    """Write a folder that any static host can serve: the page, the networks and their records.

    Args:
        networks: each a ``.safetensors`` checkpoint or the name of a network, which are exported to ONNX and compared
            with PyTorch, or the folder of an ONNX artifact.
        output: the folder; written completely or not at all. A folder of this function is replaced.
        page: folder of the built page; default: the package's own.

    Returns:
        the content of ``networks.json``.

    Raises:
        InputError: no network, one that cannot be used, an artifact of another format, a page that is not built, or an
            output folder with other content.
        LimitError: an exported network differs from PyTorch.
    """
    output = as_path(output)
    page = None if page is None else as_path(page)
    if not networks:
        raise InputError("a page needs at least one network")
    _check_output(output)
    page = page or find_page()
    opened = [_open(what) for what in networks]  # all are checked before the first is exported
    space = Space(output, _bytes(page) + sum(_size(each) for each in opened))
    space.check()
    with writing(output) as partial:
        try:
            return _write_site(opened, page, partial)
        except OSError as error:
            raise InputError(f"cannot write {output}: {space.why(error)}") from None


def _write_site(opened: Sequence[Opened], page: Path, folder: Path) -> dict[str, Any]:
    for file in sorted(page.rglob("*")):  # copytree would keep the built page's permissions
        place = folder / file.relative_to(page)
        if file.is_dir():
            place.mkdir(exist_ok=True)
        else:
            shutil.copyfile(file, place)
    (folder / "models").mkdir()
    listed: list[dict[str, Any]] = []
    for network in opened:
        listed.append(_add_network(network, folder, [entry["name"] for entry in listed]))
    catalogue = {
        "version": 1,
        "compactnets": compactnets.__version__,
        "networks": listed,
        "runtime_bytes": sum(file.stat().st_size for file in (folder / "assets").glob("*.wasm")),
        "examples": _add_examples(folder),
    }
    catalogue["files"] = sorted([NETWORKS, *_files(folder)])  # so that the folder is recognised as ours
    text = json_text(catalogue, indent=2, ensure_ascii=False)
    (folder / NETWORKS).write_text(text + "\n", encoding="utf-8")
    return catalogue


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _size(opened: Opened) -> int:
    """Return the size of a network's file in bytes, or a lower bound."""
    network = opened.network
    return network.bytes if isinstance(network, ArtifactRecord) else weight_bytes(network)


def _open(what: str) -> Opened:
    """Return the record and main file of an ONNX artifact, or the network to export with its record."""
    path = Path(what)
    if path.is_dir() or path.suffix == ".onnx":
        record, folder = read_artifact(path, ArtifactRecord)
        if record.format != "onnx":
            raise InputError(f"{what} is a {record.format} artifact, the page runs onnx: export it with --format onnx")
        return Opened(record, folder / find_format("onnx").file, "")
    find_format("onnx").versions()
    model, checkpoint = open_to_write(what, CheckpointRecord, "web")
    stem = path.name.removesuffix(".safetensors")
    tag = stem.removeprefix(f"{checkpoint.model}.") if stem.startswith(f"{checkpoint.model}.") else ""
    return Opened(model, checkpoint, tag)


def _add_network(opened: Opened, site: Path, taken: list[str]) -> dict[str, Any]:
    """Put one network into ``models/`` and return its entry."""
    network, more, tag = opened
    if isinstance(network, ArtifactRecord):
        assert isinstance(more, Path)
        return _entry(network, more, tag, site, taken)
    assert isinstance(more, CheckpointRecord)
    with scratch_folder() as scratch:
        folder = scratch / "artifact"
        record = export(network, more, "onnx", folder)
        return _entry(record, folder / "model.onnx", tag, site, taken)


def _entry(record: ArtifactRecord, file: Path, tag: str, site: Path, taken: list[str]) -> dict[str, Any]:
    network, checks = record.network, record.verification.checks
    name = f"{network.model}.{tag}" if tag else network.model
    name = name if record.precision == "float32" else f"{name} {record.precision}"
    alike = [other for other in taken if other == name or re.fullmatch(rf"{re.escape(name)} \(\d+\)", other)]
    if alike:
        name = f"{name} ({len(alike) + 1})"
    identifier = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")
    target = f"models/{identifier}.onnx"
    shutil.copyfile(file, site / target)
    return {
        "id": identifier,
        "name": name,
        "file": target,
        "sha256": record.files[file.name],
        "bytes": record.bytes,
        "macs": record.macs,
        "params": record.params,
        "precision": record.precision,
        "trained": network.source != FRESH,
        "data": _data_name(network),
        "preprocess": network.preprocess,
        "vertical_first": _vertical_first(),
        "class_names": network.class_names,
        "class_labels": network.labels,
        "source": network.source,
        "license": network.license,
        "verification": {
            "ran": record.verification.ran,
            "images": record.verification.images,
            "tolerance": record.verification.tolerance,
            "max_difference": max((check.max_difference for check in checks), default=None),
            "relative_difference": max((check.relative_difference for check in checks), default=None),
        },
    }


def _data_name(network: CheckpointRecord) -> str:
    """Return the name of a network's training data, without parent folders; "" if not recorded."""
    data = network.training.get("data")
    if not isinstance(data, str) or not data:
        return ""
    return data if data.startswith("hf:") else PurePath(data.replace("\\", "/")).name


def _vertical_first() -> bool:
    """Whether this Pillow begins to shrink tall images with the vertical pass, as it does since version 13.

    The first pass is rounded to 8 bits, so that the order shows in the last bit; the page follows the Pillow that is
    installed where its folder is made.
    """
    levels = np.random.default_rng(0).integers(0, 256, (64, 8), dtype=np.uint8)
    tall = Image.fromarray(levels)
    bilinear = Image.Resampling.BILINEAR
    direct = tall.resize((7, 32), bilinear)
    return direct.tobytes() == tall.resize((8, 32), bilinear).resize((7, 32), bilinear).tobytes()


def _add_examples(site: Path) -> list[dict[str, str]]:
    (site / "examples").mkdir()
    images = importlib.resources.files("sklearn.datasets.images")
    entries = []
    for file, name, author, source in EXAMPLES:
        (site / "examples" / file).write_bytes((images / file).read_bytes())
        attribution = f"{author}, {EXAMPLES_LICENSE}"
        entries.append({"file": f"examples/{file}", "name": name, "attribution": attribution, "source": source})
    return entries


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _check_output(output: Path) -> None:
    """Raise unless ``output`` can be written and is new, empty, or an unmodified folder of this module."""
    folder = check_folder(output)
    names = entries(folder) if folder.is_dir() else set()
    found = [file for file in _files(folder) if file.split("/")[0] in names]
    if not found:
        return
    try:
        known = set(json.loads((folder / NETWORKS).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if foreign := sorted(set(found) - known):
        raise InputError(f"{output} holds {foreign[0]}, which 'compactnets web' did not write: choose another --output")
