"""The blocks and the stage of MuffNet (sections 3.1 and 3.2, figures 2 and 3); the network is in ``muffnet.py``."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from compactnets.models.sharing import DenseSharing, Sharing
from compactnets.nn import ConvNormAct, depthwise

DEPTHS = (4, 8, 4)  # layers of each stage, the reduction block's output included (section 3.3)
HEAD_CHANNELS = 1024  # the 1x1 convolution after the last block (section 3.3)


class NormalBlock(nn.Sequential):
    """1x1, 3x3 depthwise, 1x1 (figure 3(a)): (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, activation: bool = True) -> None:
        super().__init__(
            OrderedDict(
                compress=ConvNormAct(in_channels, in_channels),
                depthwise=depthwise(in_channels),
                expand=ConvNormAct(in_channels, out_channels, activation=activation),
            )
        )


class ResidualBlock(nn.Module):
    """A normal block with a residual link (figure 3(b)): (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = NormalBlock(channels, channels, activation=False)
        self.act = nn.ReLU(inplace=True)

    @property
    def branch_end(self) -> nn.Module:
        """The last layer of what is added to the input."""
        return self.block.get_submodule("expand")

    def zero_init_last(self) -> None:
        """Let the block begin as the identity."""
        nn.init.zeros_(self.block.expand.norm.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.block(x))


class ReductionBlock(nn.Module):
    """Two branches that are added (figure 3(c)): (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).

    Main branch: 1x1, 5x5 depthwise with the stride, 1x1, the inner width ``(in_channels + out_channels) // 2``.
    Shortcut: 5x5 depthwise with the stride, 1x1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        inner = (in_channels + out_channels) // 2
        self.main = nn.Sequential(
            OrderedDict(
                compress=ConvNormAct(in_channels, inner),
                depthwise=depthwise(inner, 5, stride),
                expand=ConvNormAct(inner, out_channels, activation=False),
            )
        )
        self.shortcut = nn.Sequential(
            OrderedDict(
                depthwise=depthwise(in_channels, 5, stride),
                project=ConvNormAct(in_channels, out_channels, activation=False),
            )
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.main(x) + self.shortcut(x))


class MuffStage(nn.Module):
    """A reduction block and L - 1 normal blocks, connected by ``sharing`` (section 3.1, figure 2).

    ``(N, in_channels, H, W) -> (N, sharing.out_channels, H / stride, W / stride)``. If nothing is shared, the blocks
    are residual ones.
    """

    def __init__(self, in_channels: int, sharing: Sharing, stride: int = 2) -> None:
        super().__init__()
        self.sharing = sharing
        layers = sharing.layer_channels
        self.reduction = ReductionBlock(in_channels, layers[0], stride)
        if sharing.is_plain:
            self.units = nn.ModuleList(ResidualBlock(channels) for channels in layers[1:])
        else:
            inputs = sharing.input_channels
            self.units = nn.ModuleList(NormalBlock(*pair) for pair in zip(inputs, layers[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduction(x)
        if self.sharing.is_plain:
            for unit in self.units:
                x = unit(x)
            return x
        if isinstance(self.sharing, DenseSharing):
            outputs = [x]
            for unit in self.units:
                outputs.append(unit(torch.cat(outputs, dim=1) if len(outputs) > 1 else x))
            return torch.cat(outputs, dim=1)
        waiting: list[list[Tensor]] = [[] for _ in self.sharing.entries]  # the groups that have reached each target
        self._send(x, 0, waiting)
        for layer, unit in enumerate(self.units, start=1):
            self._send(unit(gather(waiting[layer - 1])), layer, waiting)
        return gather(waiting[-1])

    def _send(self, output: Tensor, layer: int, waiting: list[list[Tensor]]) -> None:
        """Split a layer's output into its channel groups, and pass each to its target."""
        splits = self.sharing.splits(layer)  # type: ignore[union-attr]
        sizes = [count for _, count in splits]
        groups = torch.split(output, sizes, dim=1) if len(sizes) > 1 else (output,)
        for index, (target, _) in enumerate(splits):
            waiting[target].append(groups[index])


def gather(groups: list[Tensor]) -> Tensor:
    """Concatenate the channel groups that have reached a target, in the order of their sources."""
    return torch.cat(groups, dim=1) if len(groups) > 1 else groups[0]
