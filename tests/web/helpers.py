"""Networks for the page, and a visit to it in a browser."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.data import Preprocess, read_image
from compactnets.deploy import export
from compactnets.environment import set_variables
from compactnets.web.chromium import TAKE_FILE

from ..deploy.helpers import CLASSES, tiny_network

WAIT = 30_000  # milliseconds; a machine whose cores are all at work
TINY = Preprocess(size=24, resize=28, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
GREY = dataclasses.replace(TINY, mean=(0.5,), std=(0.25,))
# what the network `Pixels` is given, one artifact each: its logits are the numbers that it gets
PREPROCESSINGS = {
    "bilinear": TINY,
    "bicubic": dataclasses.replace(TINY, interpolation="bicubic"),
    "nearest": dataclasses.replace(TINY, interpolation="nearest"),
    "plain bilinear": dataclasses.replace(TINY, antialias=False),
    "plain bicubic": dataclasses.replace(TINY, interpolation="bicubic", antialias=False),
    "square": dataclasses.replace(TINY, resize=None),
    "grey": GREY,
}


class Pixels(nn.Module):
    """Gives back its input, (N, C, H, W) -> (N, C * H * W), so that a test sees what the page prepared."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.same = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        nn.init.ones_(self.same.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.same(images).flatten(1)


def record_of(name: str, preprocess: Preprocess, classes: int) -> CheckpointRecord:
    return CheckpointRecord(
        model=name,
        arguments={},
        class_names=[f"class {index}" for index in range(classes)],
        preprocess=preprocess.to_dict(),
        source="a test",
        license="none",
    )


def write_artifacts(folder: Path) -> None:
    """Write the tiny network and ``Pixels`` under every preprocessing, each a folder of its name."""
    with set_variables({"CFLAGS": "-O1"}):  # of the check on this machine, which is not what the page runs
        export(tiny_network(), record_of("tiny", TINY, CLASSES), "c", folder / "tiny")
        for preprocess in (TINY, GREY):  # the number of channels is fixed in a file
            numbers, model = preprocess.channels * preprocess.size**2, Pixels(preprocess.channels)
            export(model, record_of("pixels", preprocess, numbers), "c", folder / f"pixels-{preprocess.channels}")
    for name, preprocess in PREPROCESSINGS.items():
        copied = Path(shutil.copytree(folder / f"pixels-{preprocess.channels}", folder / name))
        record = json.loads((copied / "artifact.json").read_text(encoding="utf-8"))
        network = record_of(name, preprocess, preprocess.channels * preprocess.size**2)
        record["network"] = network.model_dump(mode="json")
        (copied / "artifact.json").write_text(json.dumps(record), encoding="utf-8")


def write_onnx(folder: Path) -> None:
    """Write the tiny network for ONNX Runtime, under the name "onnx"."""
    export(tiny_network(), record_of("onnx", TINY, CLASSES), "onnx", folder)


def expected_logits(model: nn.Module, preprocess: Preprocess, image: Path) -> np.ndarray:
    """What PyTorch computes for an image file: (classes,)."""
    with torch.inference_mode():
        return np.asarray(model(preprocess(read_image(image))[None])[0])


class Visit:
    """One page in a browser: what is done to it, and what it asked for and complained about."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self) -> Visit:
        self.page.goto(self.address)
        return self.wait("ready", "error")

    def wait(self, *states: str) -> Visit:
        """Wait until the page's ``data-state`` is one of these."""
        self.page.wait_for_selector(", ".join(f"body[data-state={state}]" for state in states), timeout=WAIT)
        return self

    def forget(self) -> Visit:
        """Let the next wait be for what is done now: the page may still show the result of something else."""
        self.page.evaluate("document.body.dataset.state = 'forgotten'")
        return self

    def choose(self, network: str, second: str | None = None) -> Visit:
        self.page.select_option("#first", label=network)
        self.page.select_option("#second", label=second or "nothing")
        return self.wait("ready", "done", "error")

    def classify(self, image: Path) -> dict[str, Any]:
        """Give the page a file and return the JSON that it offers."""
        self.forget().page.set_input_files("#file", image)
        self.wait("done", "error")
        assert not self.error, self.error
        return self.result()

    def result(self) -> dict[str, Any]:
        """Return the JSON that the page offers, taken where the page makes its file.

        Not from a download: of the hundreds that a run of the tests would ask for, one was never announced.
        """
        found: dict[str, Any] = json.loads(self.page.evaluate(TAKE_FILE))
        return found

    def download(self) -> dict[str, Any]:
        """Click the button, as a visitor does, and return the file that the browser saves."""
        with self.page.expect_download(timeout=WAIT) as download:
            self.page.click("#download")
        found: dict[str, Any] = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        return found

    @property
    def error(self) -> str:
        """The line that the page shows when something is wrong; empty where nothing is."""
        return str(self.page.inner_text("#error")) if self.page.is_visible("#error") else ""

    @property
    def status(self) -> str:
        return str(self.page.inner_text("#status"))

    def leave(self) -> None:
        """Close the page; it must have asked its own server only."""
        foreign = [url for url in self.requests if not url.startswith((self.address, f"blob:{self.address}"))]
        self.page.context.close()
        assert not foreign, foreign
