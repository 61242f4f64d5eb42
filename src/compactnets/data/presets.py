"""Known preprocessing settings, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from compactnets.data.images import is_grey
from compactnets.data.preprocess import Preprocess

SMALL = 64  # pixels: equally sized images up to this side are not resized

IMAGENET = Preprocess(size=224, resize=256, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
GREY_MEAN, GREY_STD = (0.459,), (0.226,)  # the luma of ImageNet's mean, and the mean of its three deviations

# Mean and standard deviation over all pixels of the training images, on the scale [0, 1].
CIFAR10 = Preprocess(size=32, resize=None, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
CIFAR100 = Preprocess(size=32, resize=None, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """
CIFAR100_CLASSES = tuple(_CIFAR100_NAMES.split())

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def cifar_variant(class_names: Sequence[str]) -> str | None:
    """Return ``"cifar10"`` or ``"cifar100"`` if the class names, in any order, are theirs; otherwise ``None``."""
    for variant, names in (("cifar10", CIFAR10_CLASSES), ("cifar100", CIFAR100_CLASSES)):
        # one name in fifty may be misspelt: the hub's CIFAR-100 has "cra" for "crab"
        if len(class_names) == len(names) and len(set(names) - set(class_names)) <= len(names) // 50:
            return variant
    return None


def choose_preprocess(images: Iterable[Image.Image], class_names: Sequence[str]) -> Preprocess:
    """Choose preprocessing by a sample of the images.

    If all have the same size of at most 64 pixels a side, that size is kept, with CIFAR's mean and std for its class
    names at 32 x 32 pixels, otherwise ImageNet's, or their grey counterparts if all images are grey. Such images are
    cropped to their shorter edge if not square. Everything else gets ImageNet's preprocessing (shorter edge 256, crop
    224, RGB). ``images`` is read only as far as needed to decide.
    """
    size: tuple[int, int] | None = None
    grey = True
    for image in images:
        if max(image.size) > SMALL or (size is not None and image.size != size):
            return IMAGENET
        size, grey = image.size, grey and is_grey(image)
    if size is None:
        return IMAGENET
    if size == (32, 32) and not grey and (variant := cifar_variant(class_names)):
        return CIFAR[variant]
    side = min(size)
    resize = None if size == (side, side) else side
    if grey:
        return Preprocess(size=side, resize=resize, mean=GREY_MEAN, std=GREY_STD)
    return Preprocess(size=side, resize=resize, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
