"""MuffNet: multi-layer feature federation (Chen et al., 2019).

No code was published, and the appendix with the channel numbers is lost. ``docs/muffnet.md`` derives this network from
the paper's printed counts. In short:

* The stages have 4, 8 and 4 layers (3, 7 and 3 normal blocks after a reduction block: 53 layers in all, section 3.3).
* The reduction block's formula (section 3.2) is wrong as printed: it counts the 5x5 depthwise convolutions as full
  ones, and one inner width as ``m_i + m_j``. Depthwise, and with ``c = (m_i + m_j) / 2``, every printed total fits.
* ``M[i][j]`` follows the ``entry`` reading (``sharing.py``), with the widths of :data:`VARIANTS`.

Where the paper is silent, we follow ShuffleNetV2 and MobileNetV2, its closest peers: ReLU after pointwise convolutions
and none after depthwise ones; batch normalisation after every convolution; in residual and reduction blocks, the last
ReLU comes after the addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from compactnets.errors import InputError
from compactnets.models.budget import fit_widths, stage_macs
from compactnets.models.learned import LearnedMuffNet
from compactnets.models.muffnet_blocks import DEPTHS, HEAD_CHANNELS, MuffStage
from compactnets.models.sharing import Sharing, make_sharing
from compactnets.models.staged import Options, StagedNet, first_stage_stride, make_stem, register_family, stem_levels
from compactnets.nn import ConvNormAct, initialize


def parse_sharing(sharing: str | Sequence[Any]) -> tuple[Any, ...]:
    """Return one entry per stage of ``"average+geometric+none"`` or of a sequence of patterns and matrices.

    Raises:
        InputError: not one entry per stage.
    """
    parts = tuple(map(str.strip, sharing.split("+"))) if isinstance(sharing, str) else tuple(sharing)
    if len(parts) != len(DEPTHS):
        raise InputError(
            f"sharing needs one pattern or matrix for each of {len(DEPTHS)} stages, such as 'average+geometric+none', "
            f"found {len(parts)}: {sharing!r}"
        )
    return parts


class MuffNet(StagedNet):
    """The network of figure 3(d).

    Args:
        sharing: patterns of the low-, mid- and high-level stage, joined by ``+``, or a sequence of three patterns or
            matrices (:func:`compactnets.models.sharing.make_sharing`).
        widths: the scale of each stage's pattern; ``None`` if the stage is given as a matrix.
        reading: ``"entry"`` or ``"row"``.
        stem_channels: output channels of the first convolution.
        head_channels: output channels of the 1x1 convolution before the pooling.
        stem: ``"imagenet"`` or ``"cifar"``.
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: patterns, widths or matrices for a number of stages other than three.
    """

    def __init__(
        self,
        sharing: str | Sequence[Any] = "average+geometric+none",
        widths: Sequence[float | None] = (8, 32, 136),
        *,
        reading: str = "entry",
        stem_channels: int = 24,
        head_channels: int = HEAD_CHANNELS,
        stem: str = "imagenet",
        **options: Unpack[Options],
    ) -> None:
        if min(stem_channels, head_channels) < 1:
            raise InputError(
                f"stem_channels and head_channels must be positive, found {stem_channels}, {head_channels}"
            )
        parts = parse_sharing(sharing)
        if len(widths) != len(parts):
            raise InputError(f"widths needs one entry for each of {len(parts)} stages, found {len(widths)}: {widths}")
        plans = [make_sharing(*stage, reading) for stage in zip(parts, DEPTHS, widths, strict=True)]
        levels = stem_levels(stem_channels, stem)
        stages = []
        in_channels, reduction = levels[-1]
        for index, plan in enumerate(plans):
            stride = first_stage_stride(stem) if index == 0 else 2
            stages.append(MuffStage(in_channels, plan, stride))
            in_channels, reduction = plan.out_channels, reduction * stride
            levels.append((in_channels, reduction))
        super().__init__(
            make_stem(options.get("in_chans", 3), stem_channels, stem),
            stages,
            ConvNormAct(in_channels, head_channels),
            levels=levels,
            num_features=head_channels,
            form={"stem": stem, "sharing": [plan.described() for plan in plans]},
            **options,
        )
        initialize(self)

    @property
    def sharing(self) -> tuple[Sharing, ...]:
        """The sharing of each stage."""
        return tuple(stage.sharing for stage in self.stages)  # type: ignore[misc]


SHARING = "average+geometric+none"
LEARNED = "learned"


def muffnet(
    base_widths: Sequence[float],
    plain_widths: Sequence[int],
    *,
    sharing: str | Sequence[Any] = SHARING,
    widths: Sequence[float | None] | None = None,
    reading: str = "entry",
    stem_channels: int = 24,
    head_channels: int = HEAD_CHANNELS,
    stem: str = "imagenet",
    **options: Unpack[Options],
) -> MuffNet | LearnedMuffNet:
    """Build a named MuffNet, or one with another sharing at the same cost per stage.

    Args:
        base_widths: the widths that :data:`SHARING` has in this variant.
        plain_widths: the widths of the network without sharing whose stages cost the same.
        sharing, widths, reading: as in :class:`MuffNet`. With another sharing and no widths, the widths are chosen so
            that each stage costs as much as without sharing (``budget.fit_widths``). Every row of Tables 1 to 4 is thus
            ``muffnet_x0_5`` with its pattern names. ``sharing="learned"`` builds the network that learns M at the cost
            of this variant (``learned.py``).

    Raises:
        InputError: patterns, widths or matrices for a number of stages other than three, or widths for a learned
            sharing.
    """
    if sharing == LEARNED:
        if widths is not None or reading != "entry":
            raise InputError("sharing='learned' takes its widths from the variant: remove widths and reading")
        base = [make_sharing(*stage) for stage in zip(parse_sharing(SHARING), DEPTHS, base_widths, strict=True)]
        return LearnedMuffNet(base, stem_channels=stem_channels, head_channels=head_channels, stem=stem, **options)
    parts = parse_sharing(sharing)
    if widths is None:
        stages = list(zip(parts, DEPTHS, strict=True))
        parts = tuple(part if isinstance(part, str) else make_sharing(part, depth) for part, depth in stages)
        if parts == parse_sharing(SHARING) and reading == "entry":
            widths = base_widths
        elif parts == ("none", "none", "none"):
            widths = plain_widths
        else:
            plain = [make_sharing("none", depth, width) for depth, width in zip(DEPTHS, plain_widths, strict=True)]
            target = stage_macs(plain, stem_channels, head_channels)
            widths = fit_widths(parts, DEPTHS, target, stem_channels, head_channels, reading)
    return MuffNet(
        parts,
        widths,
        reading=reading,
        stem_channels=stem_channels,
        head_channels=head_channels,
        stem=stem,
        **options,
    )


VARIANTS = {
    "muffnet_x0_5": {"base_widths": (8, 32, 136), "plain_widths": (23, 57, 136)},
    "muffnet_x1_0": {"base_widths": (24, 74, 280), "plain_widths": (64, 132, 282)},
    "muffnet_x1_5": {"base_widths": (42, 108, 396), "plain_widths": (109, 194, 398)},
}

register_family(
    __name__,
    muffnet,
    VARIANTS,
    paper_name="MuffNet: Multi-Layer Feature Federation for Mobile Deep Learning",
    description="ICCV Workshops 2019",
)
