"""Table I's skeleton (MENet): three stages of equal units, for every network that fills it with units of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

from torch import nn

from compactnets.errors import InputError
from compactnets.models.staged import Options, StagedNet, first_stage_stride, make_stem, stem_levels
from compactnets.nn import initialize

DEPTHS = (4, 8, 4)  # units of stages 2, 3 and 4: one downsampling, then 3, 7 and 3 more (Table I)

MakeUnit = Callable[[int, int, int, int, bool], nn.Module]


class StackedNet(StagedNet):
    """Stem, three stages of units, classifier.

    Stage ``i`` (from 0) has ``depths[i]`` units of ``width * 2^i`` output channels, the first one downsampling.

    Args:
        make_unit: called with (stage, in_channels, out_channels, stride, downsample).
        width: output channels of the first stage.
        stem_channels: output channels of the first convolution.
        stem: ``"imagenet"`` or ``"cifar"``.
        form: the part of the units' definition that their tensors do not show.
        depths: units of each stage.
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: depths that are not one positive number for each stage, or an unknown stem.
    """

    def __init__(
        self,
        make_unit: MakeUnit,
        width: int,
        stem_channels: int,
        stem: str,
        form: Mapping[str, str] | None = None,
        depths: Sequence[int] = DEPTHS,
        **options: Unpack[Options],
    ) -> None:
        if len(depths) != len(DEPTHS) or min(depths) < 1:
            raise InputError(f"depths must be {len(DEPTHS)} numbers of units, at least 1 each, found {list(depths)}")
        levels = stem_levels(stem_channels, stem)
        stages = []
        in_channels, reduction = levels[-1]
        for index, depth in enumerate(depths):
            out_channels = width * 2**index
            stride = first_stage_stride(stem) if index == 0 else 2
            first = make_unit(index, in_channels, out_channels, stride, True)
            rest = [make_unit(index, out_channels, out_channels, 1, False) for _ in range(depth - 1)]
            stages.append(nn.Sequential(first, *rest))
            in_channels, reduction = out_channels, reduction * stride
            levels.append((in_channels, reduction))
        layers = make_stem(options.get("in_chans", 3), stem_channels, stem)
        form = {"stem": stem, **(form or {})}
        super().__init__(layers, stages, None, levels=levels, num_features=in_channels, form=form, **options)
        initialize(self)
