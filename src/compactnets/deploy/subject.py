"""What exports need to know of a network: how it is fed, what it gives, and how that is compared."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord, check_float, check_outputs
from compactnets.data import Preprocess, open_source
from compactnets.data.base import readable
from compactnets.deploy.formats.registry import STEP, Format, other_side
from compactnets.deploy.record import ArtifactRecord, Check, ImageArtifact
from compactnets.errors import InputError, LimitError

NUM_IMAGES = 5  # of a comparison
TINY = float(np.finfo(np.float32).tiny)

Pictures = tuple[list[Image.Image], str]  # and where they come from


class Subject(ABC):
    """A network, of any task, that takes images and gives one tensor.

    A task makes one of a network and its record; exports, int8, the benchmark and the page for browsers need no more.

    Attributes:
        model: in evaluation mode; not modified.
        record: of its checkpoint.
        artifact: type of its ``artifact.json``.
        batches: of the comparison with PyTorch.
        least_agreement: least share of equal classes in that.
        quality: what training records of its quality.
        meaning: of the output, for the metadata.
    """

    artifact: ClassVar[type[ImageArtifact]]
    batches: ClassVar[Sequence[int]]
    least_agreement: ClassVar[float] = 0.0
    quality: ClassVar[str]
    meaning: ClassVar[str]

    def __init__(self, model: nn.Module, record: Any) -> None:
        self.model, self.record = model, record

    @property
    @abstractmethod
    def title(self) -> str:
        """The network's name in messages."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input; ``None`` if the record leaves them open."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input."""

    @property
    @abstractmethod
    def preprocess(self) -> dict[str, Any]:
        """How images become the input, for the metadata."""

    @abstractmethod
    def resized(self, size: tuple[int, int]) -> Self:
        """Return the same network for another height and width.

        Raises:
            InputError: a size that it cannot have.
        """

    @abstractmethod
    def prepare(self, picture: Image.Image) -> Tensor:
        """Return an image as input: (C, H, W) float32."""

    @abstractmethod
    def output_shape(self, batch: int | None, height: int | None, width: int | None) -> list[int | None]:
        """Return the shape of the output for an input; ``None`` for a dynamic axis."""

    @abstractmethod
    def agreement(self, expected: np.ndarray, found: np.ndarray) -> float:
        """Return the share of images, or pixels, for which two outputs have the same best class."""

    def check(self) -> None:  # noqa: B027
        """Raise unless the network can be exported.

        Raises:
            InputError: why not.
        """

    def check_outputs(self, outputs: int) -> None:  # noqa: B027
        """Raise unless the record names as many classes as the network has outputs.

        Raises:
            InputError: both numbers.
        """

    def ready(self) -> Self:
        """Return the same with a copy of the network for export: on the CPU, in float32, in evaluation mode."""
        return self.with_model(copy.deepcopy(self.model).cpu().float().eval())

    def pictures(self, spec: str | None) -> Pictures:
        """Return images to compare on and where they come from; by default parts of two photographs."""
        return load_pictures(spec)

    def details(self, fmt: Format) -> dict[str, Any]:
        """Return further details for the record of an artifact."""
        return {}

    def fields(self, given: list[int | None]) -> dict[str, Any]:
        """Return what the task's ``artifact`` has besides the fields of :class:`ImageArtifact`."""
        return {}

    def with_model(self, model: nn.Module) -> Self:
        """Return the same with another network."""
        changed = copy.copy(self)
        changed.model = model
        return changed

    def example(self, batch_size: int = 1) -> Tensor:
        """Return zeros in the shape of inputs."""
        return torch.zeros(batch_size, *self.shape)

    def takes_size(self) -> bool:
        """Tell whether the network takes images of its size; some of timm's only take their own."""
        try:
            with torch.inference_mode():
                self.model(self.example())
        except (AssertionError, RuntimeError, ValueError) as error:
            if "memory" in str(error):  # not about the size
                raise
            return False
        return True

    def other(self) -> Self:
        """Return the same at another size, as :func:`other_side` has it; itself for a network of one size."""
        _, height, width = self.shape
        sizes = ((other_side(height), other_side(width)), (height + STEP, width + STEP))  # the latter: for windows
        return next((other for size in sizes if (other := self.resized(size)).takes_size()), self)

    def compare(self, expected: np.ndarray, found: np.ndarray, batch: int) -> Check:
        """Compare outputs for some images.

        Raises:
            LimitError: outputs of another shape.
        """
        if found.shape != expected.shape:
            raise LimitError(f"the artifact gives {found.shape} where PyTorch gives {expected.shape}: it was not kept")
        difference = float(np.abs(found - expected).max())
        _, height, width = self.shape
        return Check(
            batch=batch,
            size=height if height == width else (height, width),
            images=len(expected),
            max_difference=difference,
            relative_difference=difference / max(float(np.abs(expected).max()), TINY),
            rms_difference=float(np.sqrt(np.square(found - expected).mean())) / max(float(expected.std()), TINY),
            agreement=self.agreement(expected, found),
        )


class Classifier(Subject):
    """A classifier: (N, C, S, S) -> (N, classes)."""

    artifact = ArtifactRecord
    batches = (1, 2, 5)
    quality = "top1_percent"
    meaning = "logits, one for each of class_names; softmax makes probabilities of them"

    record: CheckpointRecord

    def __init__(self, model: nn.Module, record: CheckpointRecord) -> None:
        self._preprocess = Preprocess.from_dict(record.preprocess)
        super().__init__(model, record.model_copy(update={"preprocess": self._preprocess.to_dict()}))

    @property
    def title(self) -> str:
        return self.record.model

    @property
    def size(self) -> tuple[int, int]:
        return self._preprocess.size, self._preprocess.size

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._preprocess.channels, *self.size

    @property
    def preprocess(self) -> dict[str, Any]:
        return self._preprocess.to_dict()

    def resized(self, size: tuple[int, int]) -> Classifier:
        """The crop covers the same share of the image."""
        if size[0] != size[1]:
            raise InputError(f"a classifier takes square images: expected one side, found {size[0]}x{size[1]}")
        side, before = size[0], self._preprocess
        resize = None if before.resize is None else round(before.resize * side / before.size)
        preprocess = dataclasses.replace(before, size=side, resize=resize)
        return Classifier(self.model, self.record.model_copy(update={"preprocess": preprocess.to_dict()}))

    def prepare(self, picture: Image.Image) -> Tensor:
        return self._preprocess(picture)

    def output_shape(self, batch: int | None, height: int | None, width: int | None) -> list[int | None]:
        return [batch, len(self.record.class_names)]

    def agreement(self, expected: np.ndarray, found: np.ndarray) -> float:
        return float((found.argmax(1) == expected.argmax(1)).mean())

    def check(self) -> None:
        check_float(self.record, f"this checkpoint of {self.title}")

    def check_outputs(self, outputs: int) -> None:
        check_outputs(self.record, outputs)


def load_pictures(spec: str | None) -> Pictures:
    """Return five real images and where they come from: a source's first five, or parts of two photographs.

    Raises:
        InputError: a source that cannot be opened, or one without a readable image.
    """
    if spec is not None:
        source = open_source(spec, "val")
        first = list(readable(source, range(min(NUM_IMAGES, len(source)))))  # any readable image will do
        if not first:
            raise InputError(f"{spec}: none of its {len(source):,} validation images can be read")
        pictures = [source.image(first[index % len(first)]) for index in range(NUM_IMAGES)]
        return pictures, f"the first images of {spec}"
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(array) for array in load_sample_images().images]  # 640 x 427 pixels
    boxes = [(0, 0, 400, 400), (240, 27, 640, 427), (100, 50, 340, 290)]
    pictures = [photographs[index % 2].crop(boxes[index // 2]) for index in range(NUM_IMAGES)]
    return pictures, "parts of the two photographs that scikit-learn ships"
