"""Small images, folders and Parquet shards for the tests of the data layer."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return an image of uniform noise."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).convert(mode)


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Return the image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_classes(root: Path, **counts: int) -> Path:
    """Write so many images of 8 x 8 pixels of each class, every second one in a folder of its own."""
    seed = 0
    for name, count in counts.items():
        for number in range(count):
            path = root / name / ("inner" if number % 2 else ".") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(8, 8, seed=seed).save(path)
            seed += 1
    return root


def write_shard(
    path: Path,
    labels: Sequence[int | None],
    class_names: Sequence[str] | None = ("cat", "dog"),
    images: Sequence[bytes | None] | None = None,
    image_column: str = "image",
    label_column: str = "label",
) -> Path:
    """Write a Parquet shard in the Hugging Face image layout, two rows to a row group."""
    blobs = images or [encode(noise(8, 8, seed=row)) for row in range(len(labels))]
    records = [{"bytes": blob, "path": f"{row}.png" if row else None} for row, blob in enumerate(blobs)]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {image_column: pa.array(records, image_type), label_column: pa.array(labels, pa.int64())},
    )
    if class_names is not None:
        features = {
            image_column: {"_type": "Image"},
            label_column: {"names": list(class_names), "_type": "ClassLabel"},
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def write_video(path: Path, frames: int = 12, turned: int = 0) -> Path:
    """Write frames of 64 x 48 pixels, each brighter than the last, with a white upper left corner."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if turned:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV reads how a video is turned and cannot write it")
            stream.set_display_rotation(turned)
        for number in range(frames):
            pixels = np.full((48, 64, 3), (8 * number) % 256, np.uint8)
            pixels[:16, :16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path
