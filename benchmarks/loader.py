"""Images per second and core: the usual pipeline, as everyone writes it with torchvision, against our loaders.

    python benchmarks/loader.py photographs ../shared/data/imagenet_sample [--output FILE]
    python benchmarks/loader.py small [--output FILE]  # FILE: recorded/speed/NAME.json

One process, one thread, no workers, the data in memory; blocks of batches alternate, and the ratio is taken within each
pair of neighbouring blocks.

``photographs``: the images of a source that holds JPEG files. Usual: Pillow decodes, then torchvision's
``RandomResizedCrop`` to 224, ``RandomHorizontalFlip``, ``ToTensor``, ``Normalize`` and the batch. Ours: the loader that
training uses. Both crop the same areas of the same images: the usual crop draws its own (which it does not get for
free) and takes ours. Each decoder that is installed is one row.

``small``: 50,000 images of noise of 32 x 32 pixels. Usual: ``RandomCrop`` with 4 pixels of padding, flip, ``ToTensor``
and ``Normalize`` per image in a ``DataLoader``. Ours: from memory.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import compare, describe, write_record
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms

from compactnets.data import Augment, ImageSource, Preprocess, jpeg, open_source
from compactnets.data.loading import Batch, TrainLoader, make_train_loader
from compactnets.data.order import Draws
from compactnets.data.presets import CIFAR10, IMAGENET

SMALL_IMAGES = 50_000
NOTE = "Loading on one core, without worker processes, against the usual torchvision pipeline at equal crops."


def batches(loader: TrainLoader) -> Iterator[Batch]:
    """Yield batches without end, epoch after epoch."""
    return itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())


def usual_photographs(source: ImageSource, loader: TrainLoader) -> Callable[[], torch.Tensor]:
    """Return a call that gives the next batch of the usual pipeline: the images and areas of ``loader``."""

    class SameCrop(transforms.RandomResizedCrop):
        area = (0, 0, 0, 0)

        @classmethod
        def get_params(cls, img: Any, scale: list[float], ratio: list[float]) -> tuple[int, int, int, int]:
            transforms.RandomResizedCrop.get_params(img, scale, ratio)
            return cls.area

    pipeline = transforms.Compose(
        [
            SameCrop(loader.transform.preprocess.size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(loader.transform.preprocess.mean, loader.transform.preprocess.std),
        ]
    )
    plan = [
        (epoch, int(index), source.encoded(int(index)))
        for epoch in range(2)
        for index in np.concatenate([batch.indices for batch in loader.epoch(epoch)])
    ]
    areas = []
    for epoch, index, data in plan:
        width, height = Image.open(io.BytesIO(data or b"")).size
        box = loader.transform.area(Draws.of(loader.settings.seed, epoch, index), width, height)
        areas.append((data or b"", (box.top, box.left, box.height, box.width)))
    ahead = itertools.cycle(areas)

    def call() -> torch.Tensor:
        images = []
        for data, area in itertools.islice(ahead, loader.batch_size):
            SameCrop.area = area
            images.append(pipeline(Image.open(io.BytesIO(data)).convert("RGB")))
        return default_collate(images)

    return call


def photographs(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure with each decoder that is installed."""
    source = open_source(arguments.source, arguments.split)
    rows = []
    best = jpeg._simplejpeg
    for name in dict.fromkeys([jpeg.decoder(), "pillow"]):
        jpeg._simplejpeg = best if name == "simplejpeg" else lambda: None  # type: ignore[assignment]
        augment = Augment(crop="resized", flip=True)
        options = {"batch_size": arguments.batch_size, "seed": 0, "channels_last": arguments.channels_last}
        loader = make_train_loader(source, augment, IMAGENET, **options)
        ahead = itertools.chain.from_iterable(loader.epoch(epoch % 2) for epoch in itertools.count())
        usual = usual_photographs(source, loader)
        result = compare(usual, lambda ahead=ahead: next(ahead), arguments.rounds, arguments.steps)
        rows.append({"network": f"photographs, decoded by {name}", "images_per_step": loader.batch_size, **result})
        print(describe(rows[-1], "usual", "ours"), flush=True)
    jpeg._simplejpeg = best
    return rows


class NoiseSource(ImageSource):
    """Images of noise: no loader looks at what an image shows."""

    kind = "noise"

    def __init__(self, count: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        super().__init__("noise", "train", [str(label) for label in range(10)], np.arange(count) % 10)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        return f"image {index}"


class UsualImages(Dataset[tuple[torch.Tensor, int]]):
    """Torchvision's CIFAR data set: an array of pixels, and transforms of one image at a time."""

    def __init__(self, source: NoiseSource, preprocess: Preprocess) -> None:
        self.source = source
        self.pipeline = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pipeline(self.source.image(index)), int(self.source.labels[index])


def small(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the loader of small images."""
    source = NoiseSource(SMALL_IMAGES)
    options = {"batch_size": arguments.batch_size, "seed": 0, "channels_last": arguments.channels_last}
    loader = make_train_loader(source, Augment(crop="pad", pad=4, flip=True), CIFAR10, **options)
    theirs = DataLoader(UsualImages(source, CIFAR10), batch_size=arguments.batch_size, shuffle=True, drop_last=True)
    usual, ours = itertools.chain.from_iterable(itertools.repeat(theirs)), batches(loader)
    result = compare(lambda: next(usual), lambda: next(ours), arguments.rounds, arguments.steps)
    row = {"network": "32 x 32 pixels, pad 4, crop, flip", "images_per_step": arguments.batch_size, **result}
    print(describe(row, "usual", "ours"), flush=True)
    return [row]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    large = verbs.add_parser("photographs")
    large.add_argument("source")
    large.add_argument("--split", default="val", choices=("train", "val"))
    for verb, batch_size, steps in ((large, 50, 5), (verbs.add_parser("small"), 128, 10)):
        verb.add_argument("--batch-size", type=int, default=batch_size)
        verb.add_argument("--steps", type=int, default=steps, help="batches of a block")
        verb.add_argument("--rounds", type=int, default=15)
        verb.add_argument("--channels-last", action="store_true", help="ours in this layout")
        verb.add_argument("--output", type=Path, help="JSON record to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = photographs(arguments) if arguments.verb == "photographs" else small(arguments)
    if arguments.output:
        write_record(arguments.output, torch.device("cpu"), {"note": NOTE, "settings": vars(arguments), "rows": rows})


if __name__ == "__main__":
    main()
