"""Write an exported network as a server takes it: the model repository of the Triton Inference Server.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md: a folder for each model
with its configuration, and in it one for each version. ``1`` is an artifact as any other, so that eval and predict take
it; the server reads ``model.onnx`` of it and leaves the rest alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactnets import __version__
from compactnets.deploy.export import export_subject
from compactnets.deploy.formats.registry import INPUT, OUTPUT
from compactnets.deploy.record import NAME, ImageArtifact
from compactnets.deploy.subject import Subject
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.folders import check_folder, entries, writing

SERVERS = ("triton",)
FORMAT = "onnx"  # the server's backend for it takes any batch
LARGEST_BATCH = 8
QUEUE_DELAY = 1000  # microseconds that a request waits for others
VERSION, CONFIG, LABELS = "1", "config.pbtxt", "labels.txt"
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def export_to_serve(
    subject: Subject,
    server: str,
    format_name: str,
    output: str | Path,
    *,
    largest_batch: int | None = None,
    **options: Any,
) -> ImageArtifact:
    """Export a network, checked like every export, into the folder of a model in a server's repository.

    Args:
        server: ``"triton"``.
        format_name: ``"onnx"``.
        output: folder of the model, whose name is the model's; its parent is the repository. Written completely or not
            at all. A model that was written before is replaced.
        largest_batch: that the server makes of requests; default: 8.
        options: as for :func:`compactnets.deploy.export.export_subject`.

    Returns:
        the record of the artifact in ``output / "1"``.

    Raises:
        InputError: another server or format, a name that a model cannot have, a folder with other content, or as for
            :func:`compactnets.deploy.export.export_subject`.
        LimitError: the artifact differs from PyTorch; nothing is kept.
    """
    output = as_path(output)
    if server not in SERVERS:
        raise InputError(f"--serving takes {', '.join(SERVERS)}, found {server!r}")
    if format_name != FORMAT:
        raise InputError(f"--serving {server} takes --format {FORMAT}, found {format_name}")
    name = check_model_folder(output)
    with writing(output) as partial:
        record = export_subject(subject, format_name, partial / VERSION, **options)
        text = configuration(name, record, subject, largest_batch or LARGEST_BATCH)
        (partial / CONFIG).write_text(text, encoding="utf-8")
        labels = (" ".join(label.split()) for label in record.network.labels)
        (partial / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    return record


def check_model_folder(output: Path) -> str:
    """Return the name of a model from its folder, and raise unless it is new, empty, or holds what was written before.

    Raises:
        InputError: a name that a model cannot have, or a folder with other content.
    """
    folder, name = check_folder(output), Path(os.path.abspath(output)).name  # of a link, not of its target
    if not MODEL_NAME.fullmatch(name):
        raise InputError(
            f"--output is the folder of a model, and its name that of the model: letters, digits, '.', '_' and '-', "
            f"found {name!r}"
        )
    found = entries(folder) if folder.exists() else set()
    if found and not (found <= {VERSION, CONFIG, LABELS} and (folder / VERSION / NAME).is_file()):
        foreign = min(found - {VERSION, CONFIG, LABELS}, default=min(found))
        raise InputError(
            f"{output} holds {foreign}, which no --serving wrote: --output is the folder of one model, such as "
            f"{output / 'NAME'}"
        )
    return name


def configuration(name: str, record: ImageArtifact, subject: Subject, largest_batch: int) -> str:
    """Return ``config.pbtxt`` of a model, in the text form of the server's ``ModelConfig``.

    Args:
        name: of the model.
        record: of its artifact.
        subject: the network; where its size is open, so is that of the server's input.
        largest_batch: that the server makes of requests.
    """
    sides = subject.size or (None, None)
    taken = [subject.shape[0], *sides]
    given = subject.output_shape(None, *sides)[1:]
    labels = f'\n    label_filename: "{LABELS}"' if len(given) == 1 else ""  # of one vector of scores
    main = next(iter(record.files))
    return f"""# {record.title} for {record.network.task}, written by compactnets {__version__}.
# Input: pixels from 0 to 1, less the mean, divided by the deviation; how images become it is in {VERSION}/{NAME}.
name: "{name}"
backend: "onnxruntime"
default_model_filename: "{main}"
max_batch_size: {largest_batch}
input [
  {{
    name: "{INPUT}"
    data_type: TYPE_FP32
    dims: {_dims(taken)}
  }}
]
output [
  {{
    name: "{OUTPUT}"
    data_type: TYPE_FP32
    dims: {_dims(given)}{labels}
  }}
]
# requests that come within this time are run as one batch
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY}
}}
"""


def _dims(shape: Sequence[int | None]) -> str:
    return f"[ {', '.join(str(-1 if side is None else side) for side in shape)} ]"
