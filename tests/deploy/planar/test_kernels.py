"""Every kernel against PyTorch, at every pixel, over odd shapes and all widths of vectors."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .helpers import WIDTHS, check_module, compile_module, flat_outputs

CHANNELS = 40
# outputs, inputs, groups
POINTWISE = [
    (1, 1, 1),
    (5, 3, 1),
    (6, 1, 1),
    (7, 8, 1),
    (9, 36, 3),
    (13, 2, 1),
    (19, 40, 1),
    (38, 38, 38),
    (76, 38, 2),
    (70, 9, 1),  # enough tiles for a panel
]
# outputs, inputs, groups, window, stride, padding, dilation
WINDOWS = [
    (4, 3, 1, 3, 1, 1, 1),
    (8, 8, 1, 3, 2, 1, 1),
    (7, 5, 1, 3, 1, 0, 1),
    (12, 6, 3, 3, 1, 1, 1),
    (3, 2, 1, 5, 2, 2, 1),
    (2, 4, 1, 1, 2, 0, 1),
    (5, 5, 1, 3, 1, 2, 2),
    (2, 2, 1, 3, 3, 1, 1),
    (9, 9, 9, 3, 1, 1, 1),
    (7, 7, 7, 3, 2, 1, 1),
    (11, 11, 11, 5, 1, 2, 1),
    (3, 3, 3, 5, 2, 2, 1),
    (2, 2, 2, 7, 3, 3, 1),
    (3, 3, 3, 2, 1, 1, 1),
    (3, 3, 3, 7, 1, 3, 1),
    (2, 2, 2, 8, 3, 4, 1),
    (2, 2, 2, 9, 1, 4, 1),
    (4, 4, 4, 3, 1, 2, 2),
    (3, 3, 3, 3, 1, 6, 6),  # dilated beyond the edges of small planes, as in atrous pyramids
    (2, 2, 2, 3, 1, 18, 18),
    (5, 5, 5, 5, 1, 4, 2),
    (3, 2, 1, 3, 1, 6, 6),
    (3, 2, 1, 3, 1, 18, 18),
    (6, 3, 3, 3, 1, 1, 1),
]
POOLS = [
    ("maximum", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("maximum", {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
    ("maximum", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("average", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("average", {"kernel_size": 2, "stride": 2}),
    ("average", {"kernel_size": 3, "stride": 1, "padding": 1}),
]


PADS = [(1, 1, 1, 1), (2, 0, 0, 3), (0, 5, 1, 0)]  # left, right, top, bottom


class Kernels(nn.Module):
    """Each output is that of one kernel on channels of the image, so that one compilation serves for all."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size = size
        self.convolutions = nn.ModuleList(self.made())
        linear = [nn.Linear(3 * size[0] * size[1], 7), nn.Linear(CHANNELS, 5)]
        self.linear = nn.ModuleList(linear)
        self.names = [f"{name} on {size}" for name, _ in self.outputs(torch.zeros(1, CHANNELS, *size))]

    def made(self) -> Iterator[nn.Conv2d]:
        for outputs, inputs, groups in POINTWISE:
            yield nn.Conv2d(inputs, outputs, 1, groups=groups)
        for outputs, inputs, groups, window, stride, padding, dilation in WINDOWS:
            if min(self.size) + 2 * padding >= (window - 1) * dilation + 1:
                yield nn.Conv2d(inputs, outputs, window, stride, padding, dilation, groups)

    def outputs(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        for each in self.convolutions:
            start = CHANNELS - each.in_channels
            yield str(each), each(x[:, start:])
        copied = F.relu(x)  # what lies in the arena, not where the image is
        for each in self.convolutions:
            plain = each(copied[:, : each.in_channels])
            yield f"{each} from the arena", F.relu(plain)
        for kind, options in POOLS:
            window = options["kernel_size"] - 2 * options.get("padding", 0)
            if min(self.size) >= window:
                pool = F.max_pool2d if kind == "maximum" else F.avg_pool2d
                yield f"{kind} {options}", pool(x[:, :3], **options)
        for pads in PADS:
            yield f"pads {pads} of the image", F.pad(x[:, :3], pads)
            yield f"pads {pads}", F.relu(F.pad(copied[:, :3], pads))
        yield "mean", x.mean((2, 3))
        yield "dense of pixels", self.linear[0](x[:, :3].flatten(1))
        yield "dense", self.linear[1](F.adaptive_avg_pool2d(x, 1).flatten(1))
        yield "scale", copied * torch.sigmoid(F.adaptive_avg_pool2d(copied, 1))
        yield "product", copied[:, :5] * x[:, 5:10]
        yield "sum", copied[:, :5] + x[:, 5:10]
        for name in ("relu6", "hardsigmoid", "hardswish", "silu", "sigmoid"):
            yield name, getattr(F, name)(x[:, :3] + x[:, :3] + x[:, :3] + x[:, :3])
        yield "padding for nothing", x[:, 3:4]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for _, output in self.outputs(x))


SIZES = [(1, 1), (2, 3), (7, 7), (9, 13), (14, 14), (5, 32), (17, 33), (40, 28)]


@pytest.mark.parametrize(
    ("size", "width"),
    [
        pytest.param(size, width, marks=[] if (size, width) == ((9, 13), "") else pytest.mark.slow)
        for size in SIZES
        for width in WIDTHS
    ],
)
def test_kernels_equal_pytorch(size: tuple[int, int], width: str) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, CHANNELS, *size)
    check_module(Kernels(size), images, [width] if width else [])


class Pointwise(nn.Module):
    """Of as many tiles as make panels worth while, and of fewer; from odd planes, so that they are not in order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1, groups=groups) for outputs, inputs, groups in POINTWISE
        )
        self.names = [str(each) for each in self.convolutions]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.cat((F.relu(x[:, 1::2]), F.relu(x[:, ::2])), 1)
        return tuple(F.relu(each(x[:, : each.in_channels])) for each in self.convolutions)


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        pytest.param(size, flags, marks=[] if (size, flags) == ((7, 7), "") else pytest.mark.slow)
        for size in [(7, 7), (5, 5), (3, 3), (5, 10), (8, 8), (1, 2)]
        for flags in ("", "-DPLANAR_VEC=4", "-DPLANAR_VEC=16 -DPLANAR_REGISTERS=32")
    ],
)
def test_pointwise_convolutions_of_few_pixels(size: tuple[int, int], flags: str) -> None:
    """Pixels that are left over after whole vectors: none, one, two, or too many to be computed apart."""
    torch.manual_seed(1)
    check_module(Pointwise(), torch.randn(2, CHANNELS, *size), flags.split())


HALVES = ["", "-DPLANAR_VEC=1", "-DPLANAR_VEC=4", "-mno-f16c -DPLANAR_VEC=4", "-mno-f16c -DPLANAR_VEC=8"]


@pytest.mark.parametrize("flags", [pytest.param(flags, marks=pytest.mark.slow if flags else []) for flags in HALVES])
def test_weights_of_16_bits_are_what_float16_rounds_them_to(flags: str) -> None:
    """Smallest and largest numbers among them: nothing else is rounded."""
    if "f16c" in flags and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("an instruction of x86")
    torch.manual_seed(1)
    images = torch.randn(2, CHANNELS, 9, 13)
    model = Kernels((9, 13))
    scales = [1.0, 2.0**-14, 2.0**-23, 2.0**10]
    for index, layer in enumerate((*model.convolutions, *model.linear)):
        layer.weight.data *= scales[index % len(scales)]
        layer.bias.data *= scales[index % len(scales)]
    rounded = copy.deepcopy(model)
    for layer in (*rounded.convolutions, *rounded.linear):
        layer.weight.data = layer.weight.data.half().float()
    assert not torch.equal(rounded.convolutions[0].weight, model.convolutions[0].weight)
    check_module(model, images, flags.split(), like=rounded.eval(), precision="float16")


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[] if size == (9, 13) else pytest.mark.slow) for size in SIZES]
)
def test_threads_give_the_same_bits(size: tuple[int, int]) -> None:
    """However many compute an image, also more than there are planes."""
    torch.manual_seed(1)
    images = torch.randn(1, CHANNELS, *size)
    model = Kernels(size).eval()
    library = compile_module(model, images, threads=5)
    if not library.has_threads:
        pytest.skip("the compiler has no OpenMP")
    alone = library.run(images.numpy(), 1)
    for threads in (2, 3, 5, 9):
        for _ in range(5):
            assert np.array_equal(library.run(images.numpy(), threads), alone)
    expected = torch.cat(flat_outputs(model, images), 1).numpy()
    np.testing.assert_allclose(alone, expected, rtol=1e-3, atol=1e-5)


class Ends(nn.Module):
    """What can follow a convolution: products, sums and activations in every order that a kernel finishes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.ModuleList(
            nn.Conv2d(6, 6, window, padding=window // 2, groups=6 if window == 5 else 1)
            for window in (1, 3, 5)
            for _ in range(7)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return sum((self.ends(x, self.conv[start : start + 7]) for start in (0, 7, 14)), ())

    def ends(self, x: Tensor, convolutions: nn.ModuleList) -> tuple[Tensor, ...]:
        a, b = x[:, :6], x[:, 6:]
        first = [conv(a) for conv in convolutions]
        return (
            F.relu(first[0] + b),
            b + F.relu6(first[1]),
            b * torch.sigmoid(first[2]),
            F.hardswish(torch.sigmoid(first[3]) * b),
            F.relu(F.relu(first[4]) * b),
            F.relu(torch.sigmoid(first[5]) * b + a),
            F.relu(torch.cat((first[6], F.avg_pool2d(b, 3, 1, 1)), 1)),
        )


def test_what_follows_a_convolution() -> None:
    """Of 7 x 7 pixels one is computed apart from the vectors."""
    torch.manual_seed(1)
    check_module(Ends(), torch.randn(1, 12, 7, 7))


def test_not_a_number_comes_through() -> None:
    """As in PyTorch, whose ReLU does not hide one."""

    class Relu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    images = torch.zeros(1, 1, 3, 3)
    images[0, 0, 1, 1] = float("nan")
    model = Relu()
    found = compile_module(model, images).run(images.numpy()).reshape(3, 3)
    assert torch.from_numpy(found).isnan().sum() == 1
