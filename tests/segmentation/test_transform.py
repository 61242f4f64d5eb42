"""The same changes hit image and mask, and masks are never interpolated."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from compactnets.segmentation.recipe import IGNORED, MaskAugment
from compactnets.segmentation.transform import FILL, MaskTransform, network_input, normalize

from .scenes import COLOURS


def picture() -> tuple[Image.Image, np.ndarray]:
    """A picture whose colours tell the labels: 0 and 9, which interpolation would mix."""
    labels = np.zeros((60, 80), np.uint8)
    labels[10:40, 20:70] = 9
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 9]] = COLOURS[:2]
    return Image.fromarray(colours[labels]), labels


def test_labels_stay_labels_and_follow_their_image() -> None:
    change = MaskTransform(MaskAugment(crop=(48, 64), scale=(0.4, 2.5), flip=True))
    image, labels = picture()
    seen = set()
    for seed in range(40):
        pixels, mask = change(image, labels, seed)
        assert (pixels.shape, mask.shape, mask.dtype) == ((3, 48, 64), (48, 64), torch.uint8)
        seen |= set(mask.unique().tolist())
        # away from edges, which scaling blurs in the image, colour and label agree
        for label, colour in ((0, COLOURS[0]), (9, COLOURS[1]), (IGNORED, np.array(FILL))):
            others = torch.nn.functional.pad((mask != label).float()[None], (2, 2, 2, 2), value=1)
            inner = torch.nn.functional.max_pool2d(others, 5, 1)[0] == 0
            found = pixels[:, inner].float()
            assert (found - torch.tensor(colour.astype(np.float32))[:, None]).abs().le(3).all()
    assert seen == {0, 9, IGNORED}


def test_changes_depend_on_the_seed_alone() -> None:
    change = MaskTransform(MaskAugment(crop=(48, 64), photometric=True))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, other, third = (change(*picture(), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], third[0])


def test_flips_happen_half_of_the_time() -> None:
    change = MaskTransform(MaskAugment(crop=(60, 80), scale=(1.0, 1.0)))
    image, labels = picture()
    flipped = 0
    for seed in range(60):
        pixels, mask = change(image, labels, seed)
        mirrored = bool((mask.numpy() == labels[:, ::-1]).all())
        flipped += mirrored
        assert mirrored or bool((mask.numpy() == labels).all())
        whole = np.asarray(image).transpose(2, 0, 1)
        assert np.array_equal(pixels.numpy(), whole[:, :, ::-1] if mirrored else whole)
    assert 15 < flipped < 45


def test_the_network_in_use_sees_the_whole_image() -> None:
    image, _ = picture()
    assert torch.equal(network_input(image, None), network_input(image, (60, 80)))
    assert network_input(image, (32, 64)).shape == (3, 32, 64)
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalize(pixels, (0.0, 0.1, 0.5), (1.0, 0.5, 0.25)).flatten().tolist()
    assert np.allclose(found, [0, 0.2, 2])
