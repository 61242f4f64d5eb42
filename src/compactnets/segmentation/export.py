"""Segmenters as exports take them: what goes in, what comes out, and how it is compared."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from compactnets.data.finding import find_files
from compactnets.data.inputs import read_pictures
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.record import ImageArtifact
from compactnets.deploy.subject import NUM_IMAGES, Pictures, Subject
from compactnets.errors import InputError
from compactnets.segmentation.checkpoint import SegmenterRecord
from compactnets.segmentation.metrics import best_class
from compactnets.segmentation.networks import Segmenter, upscale
from compactnets.segmentation.transform import network_input, normalize

SIZE = (384, 512)  # height and width of the comparison where nothing fixes it
AFTER = (
    "the scores have the resolution of the network: scale them bilinearly to the image (pixel centres at halves, no "
    "corners aligned), then take the class with the largest at every pixel"
)


class SegmenterArtifact(ImageArtifact):
    """The ``artifact.json`` of a segmenter."""

    task: Literal["segmentation"] = "segmentation"
    agreement = "equal pixels"
    agreement_digits = 3
    network: SegmenterRecord = Field(description="network, classes, preprocessing, source and licence of the weights")
    output: list[int | None] = Field(description="(N, classes, H / stride, W / stride), rounded up")
    stride: int
    after: str = Field(AFTER, description="what is left to the caller")

    @property
    def title(self) -> str:
        return self.network.title

    @property
    def example(self) -> tuple[int, int, int]:
        return 3, *(self.network.size or SIZE)

    @property
    def map_size(self) -> tuple[int, int]:
        _, height, width = self.example
        return -(-height // self.stride), -(-width // self.stride)

    def notes(self) -> list[str]:
        sides = " x ".join("any" if side is None else str(side) for side in self.output)
        return [f"output {sides}: {self.after}"]


class SegmenterSubject(Subject):
    """A segmenter: (N, 3, H, W) -> (N, classes, H / stride, W / stride)."""

    artifact = SegmenterArtifact
    batches = (1, 2)
    quality = "miou_percent"
    least_agreement = 0.999  # of the pixels, at the image's size
    meaning = AFTER

    model: Segmenter
    record: SegmenterRecord

    @property
    def title(self) -> str:
        return self.record.title

    @property
    def size(self) -> tuple[int, int] | None:
        return self.record.size

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, *(self.record.size or SIZE)

    @property
    def preprocess(self) -> dict[str, Any]:
        return self.record.preprocess

    def resized(self, size: tuple[int, int]) -> SegmenterSubject:
        return SegmenterSubject(self.model, self.record.model_copy(update={"size": size}))

    def prepare(self, picture: Image.Image) -> Tensor:
        return normalize(network_input(picture, self.shape[1:])[None], *self.record.statistics)[0]

    def output_shape(self, batch: int | None, height: int | None, width: int | None) -> list[int | None]:
        sides = [side if side is None else -(-side // self.record.settings.stride) for side in (height, width)]
        return [batch, len(self.record.class_names), *sides]

    def agreement(self, expected: np.ndarray, found: np.ndarray) -> float:
        one, other = (best_class(upscale(torch.from_numpy(each), self.shape[1:])) for each in (expected, found))
        return float((one == other).float().mean())

    def ready(self) -> SegmenterSubject:
        """As for others, and without the head that only training uses."""
        ready = super().ready()
        ready.model.auxiliary = None
        return ready

    def pictures(self, spec: str | None) -> Pictures:
        """Return the first images of a file, folder or pattern; default: parts of two photographs."""
        if spec is None:
            return super().pictures(spec)
        readable = []
        for picture in itertools.islice(read_pictures(find_files([spec])), NUM_IMAGES):
            if picture.image is None:
                raise InputError(f"--images: {picture.error}")
            readable.append(picture.image)
        return readable, f"the first images of {spec}"

    def details(self, fmt: Format) -> dict[str, Any]:
        return {"least_side": self.record.settings.output_stride + 1} if fmt.any_size else {}

    def fields(self, given: list[int | None]) -> dict[str, Any]:
        return {"output": given, "stride": self.record.settings.stride}
