"""Classify photographs on a board, with ONNX Runtime alone: neither PyTorch nor compactnets.

python classify.py ARTIFACT PHOTO...      # ARTIFACT: a folder that `compactnets export --format onnx` wrote

It needs onnxruntime, numpy and pillow, of which there are wheels for 64-bit ARM.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "nearest": Image.NEAREST}


def prepare(image: Image.Image, how: dict[str, Any]) -> np.ndarray:
    """Return an image as the network takes it, (1, C, size, size) float32, as the artifact's record says."""
    if not how["antialias"] and how["interpolation"] != "nearest":
        raise SystemExit("this network was trained on images scaled without antialiasing, which Pillow cannot do")
    size, resize = how["size"], how["resize"]
    image = ImageOps.exif_transpose(image).convert("RGB" if len(how["mean"]) == 3 else "L")
    if resize is None:
        target = (size, size)
    else:  # the shorter edge; the longer one is rounded down, as torchvision does
        longer = int(resize * max(image.size) / min(image.size))
        target = (resize, longer) if image.width <= image.height else (longer, resize)
    if image.size != target:
        image = image.resize(target, FILTERS[how["interpolation"]])
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32).reshape(size, size, -1) / 255
    return ((pixels - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)[None]


def main() -> None:
    """Print the best classes of each photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--top", type=int, default=3, help="classes to print")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    record = given.artifact / "artifact.json"
    if not record.is_file():
        raise SystemExit(f"{given.artifact} is no exported network: it has no artifact.json")
    network = json.loads(record.read_text(encoding="utf-8"))["network"]
    labels = network.get("class_labels") or network["class_names"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given.threads
    session = onnxruntime.InferenceSession(
        str(given.artifact / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    for photo in given.photos:
        try:
            with Image.open(photo) as image:
                taken = prepare(image, network["preprocess"])
        except OSError as error:
            print(f"{photo}: {error}")
            continue
        (logits,) = session.run(None, {session.get_inputs()[0].name: taken})[0]
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[: given.top]
        print(f"{photo}: " + ", ".join(f"{labels[index]} {shares[index]:.4f}" for index in best))


if __name__ == "__main__":
    main()
