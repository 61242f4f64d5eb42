"""The folder of a web page that runs exported networks in the browser."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

import compactnets
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.networks import FRESH
from compactnets.console import say
from compactnets.deploy.export import export_subject, weight_bytes
from compactnets.deploy.formats.registry import find_format
from compactnets.deploy.planar.arrays import UnsupportedError
from compactnets.deploy.planar.wasm import find_wasm_compiler
from compactnets.deploy.record import ImageArtifact, Verification, find_artifact, read_artifact, task_of_artifact
from compactnets.deploy.subject import Subject
from compactnets.drawing.colours import class_colour
from compactnets.errors import InputError, did_you_mean
from compactnets.failures import Space, scratch_folder
from compactnets.files import as_path, json_text
from compactnets.folders import check_folder, entries, writing
from compactnets.tasks import find_task
from compactnets.tasks.opening import open_subject
from compactnets.web.page import find_page
from compactnets.web.planar import make_module

NETWORKS = "networks.json"
# scikit-learn's two sample photographs: file, what is on it, and the attribution that their licence asks for
EXAMPLES = (
    ("china.jpg", "Temple in China", "danielbuechele", "https://www.flickr.com/photos/danielbuechele/6061409035/"),
    ("flower.jpg", "Flower", "vultilion", "https://www.flickr.com/photos/vultilion/6056698931/"),
)
EXAMPLES_LICENSE = "CC BY 2.0"


PLANAR, ONNX = "planar", "onnx"
FORMATS = {PLANAR: "c", ONNX: "onnx"}  # engine of the page -> format of its networks
RUNTIME = ("assets/ort-*", "assets/onnx-*")  # of the built page: ONNX Runtime Web, and what calls it


@dataclass(frozen=True)
class Opened:
    """A network of the page: an existing artifact, or a network to export."""

    network: ImageArtifact | Subject
    folder: Path | None  # the artifact's
    tag: str  # of named weights, NETWORK.TAG; otherwise ""
    engine: str
    fixed: bool  # whether the engine was chosen by the user, or by the format of the artifact


def build_site(
    networks: Sequence[str], output: str | Path, *, engine: str | None = None, page: str | Path | None = None
) -> dict[str, Any]:
    """Write a folder that any static host can serve: the page, the networks and their records.

    Args:
        networks: each a ``.safetensors`` checkpoint or the name of a network, which are exported and compared with
            PyTorch, or the folder of an artifact of the format ``c`` or ``onnx``.
        output: the folder; written completely or not at all. A folder of this function is replaced.
        engine: ``"planar"`` compiles networks to WebAssembly of their own; ``"onnx"`` runs them in ONNX Runtime Web.
            Default: planar, or ONNX Runtime Web for a network that the planar engine cannot express and without a
            compiler for WebAssembly, with a line that says so. An artifact runs in the engine of its format.
        page: folder of the built page; default: the package's own.

    Returns:
        the content of ``networks.json``.

    Raises:
        InputError: no network, one that cannot be used, an artifact of another format, an unknown engine or one that
            cannot run a network, a page that is not built, or an output folder with other content.
        LimitError: an exported network differs from PyTorch.
    """
    output = as_path(output)
    page = None if page is None else as_path(page)
    if not networks:
        raise InputError("a page needs at least one network")
    if engine is not None and engine not in FORMATS:
        raise InputError(f"--engine is {' or '.join(FORMATS)}, found {engine!r}{did_you_mean(engine, FORMATS)}")
    _check_output(output)
    opened = _open_all(networks, engine)  # all are checked before the page is built and the first is exported
    page = page or find_page()
    needed = _bytes(page) - (0 if any(each.engine == ONNX for each in opened) else _runtime_bytes(page))
    space = Space(output, needed + sum(_size(each) for each in opened))
    space.check()
    with writing(output) as partial:
        try:
            return _write_site(opened, page, partial)
        except OSError as error:
            raise InputError(f"cannot write {output}: {space.why(error)}") from None


def _write_site(opened: Sequence[Opened], page: Path, folder: Path) -> dict[str, Any]:
    (folder / "models").mkdir()
    listed: list[dict[str, Any]] = []
    for network in opened:
        listed.append(_add_network(network, folder, [entry["name"] for entry in listed]))
    runtime = _runtime_files(page) if any(entry["engine"] == ONNX for entry in listed) else []
    left_out = set(_runtime_files(page)) - set(runtime)
    for file in sorted(page.rglob("*")):  # copytree would keep the built page's permissions
        place = folder / file.relative_to(page)
        if file.is_dir():
            place.mkdir(exist_ok=True)
        elif file not in left_out:
            shutil.copyfile(file, place)
    catalogue = {
        "version": 1,
        "compactnets": compactnets.__version__,
        "networks": listed,
        "runtime_bytes": sum(file.stat().st_size for file in runtime if file.suffix == ".wasm"),
        "runtime_files": [file.relative_to(page).as_posix() for file in runtime],
        "examples": _add_examples(folder),
    }
    catalogue["files"] = sorted([NETWORKS, *_files(folder)])  # so that the folder is recognised as ours
    text = json_text(catalogue, indent=2, ensure_ascii=False)
    (folder / NETWORKS).write_text(text + "\n", encoding="utf-8")
    return catalogue


def _runtime_files(page: Path) -> list[Path]:
    """Return the files of the built page that only networks in ONNX Runtime Web need."""
    return sorted(file for pattern in RUNTIME for file in page.glob(pattern))


def _runtime_bytes(page: Path) -> int:
    return sum(file.stat().st_size for file in _runtime_files(page))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _size(opened: Opened) -> int:
    """Return the size of a network's file in bytes, or a lower bound."""
    network = opened.network
    return network.bytes if isinstance(network, ImageArtifact) else weight_bytes(network.model)


def _open_all(networks: Sequence[str], engine: str | None) -> list[Opened]:
    """Open the networks, and choose the engine of each."""
    opened = [_open(what, engine) for what in networks]
    missing = None
    try:
        if any(each.engine == PLANAR for each in opened):
            find_wasm_compiler()
    except InputError as error:
        missing = error
    if missing is None:
        return opened
    if any(each.fixed for each in opened if each.engine == PLANAR):
        raise missing
    try:
        find_format(FORMATS[ONNX]).versions()
    except InputError:
        raise missing from None
    _say_onnx([each for each in opened if each.engine == PLANAR], str(missing))
    return [dataclasses.replace(each, engine=ONNX) for each in opened]


def _say_onnx(opened: Sequence[Opened], why: str) -> None:
    names = ", ".join(each.network.title for each in opened)
    say(f"{names}: in ONNX Runtime Web, which loads 14 MB more and runs slower, because {why}")


def _open(what: str, engine: str | None) -> Opened:
    """Return the record and folder of an artifact, or the network to export with its record."""
    path = Path(what)
    if path.is_dir() or path.suffix in (".onnx", ".c"):
        record, folder = read_artifact(path, _record_type(path))
        runs = next((name for name, format_name in FORMATS.items() if format_name == record.format), None)
        if runs is None:
            raise InputError(
                f"{what} is a {record.format} artifact, the page runs c and onnx: export it with --format c"
            )
        if engine not in (None, runs):
            raise InputError(
                f"{what} is an artifact of the format {record.format}, which --engine {engine} does not run: leave "
                f"--engine out, or export it with --format {FORMATS[engine]}"
            )
        _check_size(record.title, record.network.preprocess)
        return Opened(record, folder, "", runs, fixed=True)
    if engine == ONNX:
        find_format(FORMATS[ONNX]).versions()
    subject = open_subject(what, "web")
    _check_size(subject.title, subject.preprocess)
    stem = path.name.removesuffix(".safetensors")
    tag = stem.removeprefix(f"{subject.title}.") if stem.startswith(f"{subject.title}.") else ""
    return Opened(subject, None, tag, engine or PLANAR, fixed=engine is not None)


def _record_type(path: Path) -> type[ImageArtifact]:
    """Return the type of an artifact's record, by the task that it states."""
    task = find_task(task_of_artifact(find_artifact(path) or path))
    if task.artifact is None or not issubclass(task.artifact, ImageArtifact):
        raise InputError(f"{task.name} has no web: {path} is a network for {task.name}")
    return task.artifact


def _check_size(title: str, preprocess: dict[str, Any]) -> None:
    if preprocess["size"] is None:
        raise InputError(
            f"{title} takes images of any size, and the page needs one: export it with --format c --size "
            f"HEIGHTxWIDTH, and give the folder"
        )


def _add_network(opened: Opened, site: Path, taken: list[str]) -> dict[str, Any]:
    """Put one network into ``models/`` and return its entry."""
    if isinstance(opened.network, ImageArtifact):
        assert opened.folder is not None
        return _entry(opened, opened.network, opened.folder, site, taken)
    with scratch_folder() as scratch:
        try:
            record = _export(opened, scratch / "artifact")
        except UnsupportedError as error:
            if opened.fixed:
                raise
            _say_onnx([opened], str(error))
            opened = dataclasses.replace(opened, engine=ONNX)
            record = _export(opened, scratch / "artifact")
        return _entry(opened, record, scratch / "artifact", site, taken)


def _export(opened: Opened, folder: Path) -> ImageArtifact:
    assert isinstance(opened.network, Subject)
    return export_subject(opened.network, FORMATS[opened.engine], folder)


def _entry(opened: Opened, record: ImageArtifact, folder: Path, site: Path, taken: list[str]) -> dict[str, Any]:
    network = record.network
    name = f"{record.title}.{opened.tag}" if opened.tag else record.title
    name = name if record.precision == "float32" else f"{name} {record.precision}"
    alike = [other for other in taken if other == name or re.fullmatch(rf"{re.escape(name)} \(\d+\)", other)]
    if alike:
        name = f"{name} ({len(alike) + 1})"
    identifier = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")
    subject = opened.network if isinstance(opened.network, Subject) else None
    written = _write_planar if opened.engine == PLANAR else _write_onnx
    return {
        "id": identifier,
        "name": name,
        "engine": opened.engine,
        **written(record, folder, subject, site, f"models/{identifier}"),
        "macs": record.macs,
        "params": record.params,
        "precision": record.precision,
        "trained": network.source != FRESH,
        "data": _data_name(network),
        "preprocess": network.preprocess,
        "vertical_first": _vertical_first(),
        "task": record.task,
        "class_names": network.class_names,
        "class_labels": network.labels,
        **({} if record.threshold is None else {"threshold": record.threshold}),
        **_map(record),
        "source": network.source,
        "license": network.license,
    }


def _map(record: ImageArtifact) -> dict[str, Any]:
    """Return what the page needs to draw the classes of a network that has them at every pixel."""
    if record.map_size is None:
        return {}
    colours = [class_colour(label) for label in range(len(record.network.class_names))]
    return {"map": list(record.map_size), "colours": [list(colour) for colour in colours]}


def _write_onnx(
    record: ImageArtifact, folder: Path, subject: Subject | None, site: Path, target: str
) -> dict[str, Any]:
    """Copy an ONNX file, and return the entry's fields about it."""
    file = find_format("onnx").file
    shutil.copyfile(folder / file, site / f"{target}.onnx")
    return {
        "file": f"{target}.onnx",
        "sha256": record.files[file],
        "bytes": record.bytes,
        "verification": _verified(record.verification, "in ONNX Runtime"),
    }


def _write_planar(
    record: ImageArtifact, folder: Path, subject: Subject | None, site: Path, target: str
) -> dict[str, Any]:
    """Write a network's WebAssembly and its weights, and return the entry's fields about them."""
    module = make_module(record, folder, subject)
    for suffix, content in ((".wasm", module.code), (".bin", module.weights)):
        (site / f"{target}{suffix}").write_bytes(content)
    where = "as WebAssembly in Node.js" if module.verification else "as a C program"
    return {
        "file": f"{target}.bin",
        "sha256": hashlib.sha256(module.weights).hexdigest(),
        "bytes": len(module.weights),
        "code": {
            "file": f"{target}.wasm",
            "sha256": hashlib.sha256(module.code).hexdigest(),
            "bytes": len(module.code),
            "name": module.name,
        },
        "verification": _verified(module.verification or record.verification, where),
    }


def _verified(verification: Verification, where: str) -> dict[str, Any]:
    checks = verification.checks
    return {
        "ran": verification.ran,
        "where": where,
        "images": verification.images,
        "tolerance": verification.tolerance,
        "max_difference": max((check.max_difference for check in checks), default=None),
        "relative_difference": max((check.relative_difference for check in checks), default=None),
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
