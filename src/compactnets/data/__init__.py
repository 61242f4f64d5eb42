"""Labelled images: source -> decoded image -> tensor.

:func:`open_source` recognises the layout of a source. :class:`Preprocess` is the evaluation transform that travels with
the weights, :class:`Augment` the training transform of a recipe. :class:`ImageDataset` joins source and transform;
:func:`make_train_loader` and :func:`make_eval_loader` yield batches.
"""

from compactnets.data.augment import Augment
from compactnets.data.base import ImageDataset, ImageSource
from compactnets.data.images import read_image
from compactnets.data.loading import Batch, TrainLoader, make_eval_loader, make_train_loader
from compactnets.data.opening import open_source
from compactnets.data.preprocess import Preprocess

__all__ = [
    "Augment",
    "Batch",
    "ImageDataset",
    "ImageSource",
    "Preprocess",
    "TrainLoader",
    "make_eval_loader",
    "make_train_loader",
    "open_source",
    "read_image",
]
