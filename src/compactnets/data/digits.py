"""The 1,797 handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from compactnets.data.base import ImageSource, Split
from compactnets.data.content import digest_parts
from compactnets.data.preprocess import Fit, Preprocess

SIZE = 16  # the 8 x 8 pixels are enlarged to this side


class DigitsSource(ImageSource):
    """Grey images of 8 x 8 pixels in ten classes (the test set of UCI's "Optical Recognition of Handwritten Digits").

    One fixed stratified split: 1,437 for training, 360 for evaluation. The levels 0 to 16 become 0 to 255.

    Args:
        split: ``"train"`` or ``"val"``.
        spec: the source as the user named it.
    """

    kind = "digits"

    def __init__(self, split: Split, spec: str = "digits") -> None:
        pixels, labels, indices = _load(split)
        self.pixels = pixels  # (N, 8, 8) uint8
        self.indices = indices  # into scikit-learn's array
        super().__init__(spec, split, [str(digit) for digit in range(10)], labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def content(self) -> str:
        return digest_parts([self.pixels.tobytes()])

    def name(self, index: int) -> str:
        return f"digit {self.indices[index]}"

    @property
    def readable_preprocess(self) -> Preprocess:
        return self.default_preprocess

    @property
    def default_preprocess(self) -> Preprocess:
        return _preprocess()


@cache
def _load(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # here, because importing it takes a second
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, val = train_test_split(indices, test_size=0.2, random_state=0, stratify=digits.target)
    chosen = np.sort(train if split == "train" else val)
    pixels = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    return pixels, digits.target[chosen].astype(np.int64), chosen


@cache
def _preprocess() -> Preprocess:
    """Measure mean and std of the enlarged training images, as the network sees them."""
    fit = Fit(Preprocess(size=SIZE, resize=None, mean=(0.0,), std=(1.0,)))
    train = np.stack([np.asarray(fit(Image.fromarray(pixels))) for pixels in _load("train")[0]]) / 255
    return Preprocess(
        size=SIZE, resize=None, mean=(round(float(train.mean()), 4),), std=(round(float(train.std()), 4),)
    )
