"""The skeleton that every network of the package stands on, and its registration with timm.

A network is a stem, a sequence of stages, a final layer and a classifier (MENet, Table I; MuffNet, figure 3(d)). The
skeleton gives all of them the surface of a timm model: ``forward_features``, ``forward_head``,
``forward_intermediates``, ``feature_info``, ``reset_classifier``, ``num_classes=0``, ``features_only``.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypedDict

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, create_feature_extractor, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.models.dilation import dilate
from compactnets.models.form import carry_form, form_of, is_form, with_form
from compactnets.models.pretrained import CLASSIFICATION, Weights, find_weights, weights_of
from compactnets.nn import ConvNormAct, add_drop_path

STEMS = ("imagenet", "cifar")
NUM_STAGES = 3  # of every registered family
SOURCES = ("url", "file", "state_dict", "hf_hub_id")  # where timm takes weights from, by the keys of its configuration


def check_stem(stem: str) -> None:
    """Raise :class:`InputError` unless ``stem`` is ``"imagenet"`` or ``"cifar"``."""
    if stem not in STEMS:
        raise InputError(f"stem must be one of {', '.join(STEMS)}, found {stem!r}")


def first_stage_stride(stem: str) -> int:
    """Return the stride of the first stage: 2, or 1 with the cifar stem (MuffNet, section 3.3)."""
    check_stem(stem)
    return 1 if stem == "cifar" else 2


def make_stem(in_chans: int, out_channels: int, stem: str) -> nn.Sequential:
    """Build the first layers: 3x3 convolution and 3x3 max-pooling, both of stride 2 (MENet, Table I).

    The cifar stem is the convolution alone, with stride 1 (MuffNet, section 3.3).
    """
    check_stem(stem)
    if in_chans < 1:
        raise InputError(f"in_chans must be positive, found {in_chans}")
    if stem == "cifar":
        return nn.Sequential(OrderedDict(conv=ConvNormAct(in_chans, out_channels, 3)))
    conv = ConvNormAct(in_chans, out_channels, 3, stride=2)
    return nn.Sequential(OrderedDict(conv=conv, pool=nn.MaxPool2d(3, stride=2, padding=1)))


def stem_levels(out_channels: int, stem: str) -> list[tuple[int, int]]:
    """Return ``(channels, reduction)`` of every layer of :func:`make_stem`."""
    check_stem(stem)
    return [(out_channels, 1)] if stem == "cifar" else [(out_channels, 2), (out_channels, 4)]


class Options(TypedDict, total=False):
    """Options of every network of the package.

    ``num_classes``: outputs of the classifier, 0 for none (1000). ``in_chans``: channels of the image (3).
    ``drop_rate``: dropout before the classifier (0). ``global_pool``: ``"avg"``, or ``""`` to return the map.
    ``drop_path_rate``: how often the last residual branch is left out in training, per image (0); earlier ones less
    often (Huang et al. 2016, arXiv:1603.09382). ``output_stride``: the largest reduction of a map, 8
    or 16; strides beyond it become dilations.
    """

    num_classes: int
    in_chans: int
    drop_rate: float
    global_pool: str
    drop_path_rate: float
    output_stride: int


class StagedNet(nn.Module):
    """Stem, stages, final layer, global pooling, classifier.

    Args:
        stem: the first layers, named; each is one level of ``feature_info``.
        stages: the stages; each is one level of ``feature_info``.
        final: the layer after the last stage (MuffNet's 1x1 convolution), or ``None``.
        levels: ``(channels, reduction)`` of every layer of the stem, then of every stage.
        num_features: channels after ``final``.
        form: the part of the network's definition that its tensors do not show: ``stem``, and more in some families
            (:mod:`compactnets.models.form`). Weights of another form are refused.
        num_classes: outputs of the classifier; 0 for none.
        drop_rate: dropout before the classifier.
        global_pool: ``"avg"``, or ``""`` to return the map itself (only without a classifier).
        drop_path_rate: as in :class:`Options`.
        output_stride: as in :class:`Options`; the network's own by default.

    Raises:
        InputError: an unknown pooling, a classifier without pooling, a ``drop_path_rate`` for a network without
            residual branches, or an ``output_stride`` that is no reduction of the network.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        stages: Sequence[nn.Module],
        final: nn.Module | None,
        *,
        levels: Sequence[tuple[int, int]],
        num_features: int,
        form: Mapping[str, Any] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        drop_path_rate: float = 0.0,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.global_pool: nn.Module
        self.final = final if final is not None else nn.Identity()
        modules = [f"stem.{name}" for name, _ in stem.named_children()] + [f"stages.{i}" for i in range(len(stages))]
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": channels, "reduction": reduction, "module": module}
            for (channels, reduction), module in zip(levels, modules, strict=True)
        ]
        self.reset_classifier(num_classes, global_pool)
        carry_form(self, form or {})
        if output_stride is not None:
            self._dilate(output_stride)
        if drop_path_rate:
            add_drop_path(self.stages, drop_path_rate)

    @property
    def form(self) -> dict[str, Any]:
        """The part of the network's definition that its tensors do not show; weights of another form are refused."""
        return form_of(self)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one with ``num_classes`` outputs; 0 removes it.

        The pooling is unchanged unless given, except that a classifier after an unpooled map restores the average.

        Raises:
            InputError: an unknown pooling, or a classifier with ``global_pool=""``.
        """
        if global_pool is None and num_classes and isinstance(self.global_pool, nn.Identity):
            global_pool = "avg"
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise InputError(f"global_pool must be 'avg' or '' (none), found {global_pool!r}")
            self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)) if global_pool else nn.Identity()
            self.global_pool.pool_type = global_pool  # type: ignore[assignment]  # timm's save_for_hf writes it down
        pooled = isinstance(self.global_pool, nn.Sequential)
        if num_classes and not pooled:
            raise InputError("a classifier needs global_pool='avg'; with global_pool='' use num_classes=0")
        self.num_classes = num_classes
        self.dropout = nn.Dropout(self.drop_rate) if self.drop_rate else nn.Identity()
        reference = next(self.parameters(), None)
        self.classifier: nn.Module = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(self.num_features, num_classes)
            nn.init.normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.bias)
        if reference is not None:
            self.classifier.to(device=reference.device, dtype=reference.dtype)
        for part in (self.classifier, self.dropout, self.global_pool):
            part.train(self.training)

    def _dilate(self, output_stride: int) -> None:
        """Keep all maps at 1 / ``output_stride`` or larger, in place (:func:`compactnets.models.dilation.dilate`)."""
        reductions = {entry["module"]: entry["reduction"] for entry in self.feature_info}
        if output_stride not in reductions.values():
            known = ", ".join(str(each) for each in sorted(set(reductions.values())))
            raise InputError(
                f"output_stride must be one of {known}, the reductions of this network, found {output_stride}"
            )
        training = self.training
        body = create_feature_extractor(self.eval(), {module: module for module in reductions})
        dilate(body, reductions, output_stride, type(self).__name__, self.in_chans)
        dilated = dict(body.named_modules())  # without what no map needs
        for name, module in list(self.named_modules()):
            if name in dilated and isinstance(module, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d):
                self.set_submodule(name, dilated[name])
        for entry in self.feature_info:
            entry["reduction"] = min(entry["reduction"], output_stride)
        self.train(training)

    def get_classifier(self) -> nn.Module:
        """Return the classifier (:class:`torch.nn.Linear`, or ``Identity`` without classes)."""
        return self.classifier

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages' activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's optimizers must not decay beside biases and normalisation: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Name patterns of stem and blocks, for timm's layer-wise learning-rate decay."""
        stage = r"^stages\.(\d+)"
        units = [] if coarse else [(rf"{stage}\.(?:units\.)?(\d+)", None)]
        # what a stage has before its units (MuffNet's reduction block) is a block of its own
        return {"stem": r"^stem", "blocks": [*units, (stage, None), (r"^final", (99999,))]}

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H', W'), unpooled."""
        x = self.stem(x)
        recompute = self.grad_checkpointing and self.training
        return self.final(checkpoint_seq(self.stages, x) if recompute else self.stages(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: (N, num_features, H', W') -> (N, num_classes), or (N, num_features) before the logits."""
        x = self.dropout(self.global_pool(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the final features and the maps at ``indices`` of ``feature_info`` (timm's signature).

        ``norm`` is accepted and has no effect: no level has a normalisation of its own to apply.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt must be 'NCHW', found {output_fmt!r}")
        levels = [*self.stem, *self.stages]
        take, last = feature_take_indices(len(levels), indices)
        recompute = self.grad_checkpointing and self.training
        intermediates = []
        for index, level in enumerate(levels[: last + 1] if stop_early else levels):
            x = checkpoint_seq([level], x) if recompute and index >= len(self.stem) else level(x)
            if index in take:
                intermediates.append(x)
        if intermediates_only:
            return intermediates
        return (x if stop_early and last + 1 < len(levels) else self.final(x)), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the maps at ``indices`` do not need (timm's signature).

        ``prune_norm`` removes the final layer.
        """
        take, last = feature_take_indices(len(self.feature_info), indices)
        num_stem = len(self.stem)
        ends_early = last + 1 < len(self.feature_info)
        self.stem = self.stem[: last + 1]
        self.stages = self.stages[: max(0, last + 1 - num_stem)]
        if prune_norm or ends_early:
            self.final = nn.Identity()
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or prune_norm or ends_early:
            self.reset_classifier(0, "")
        return take


def register_family(
    module_name: str,
    network: Callable[..., StagedNet],
    variants: Mapping[str, Mapping[str, Any]],
    **cfg: Any,
) -> None:
    """Register one timm entry point per variant, as attributes of the module ``module_name``.

    Args:
        module_name: ``__name__`` of the family's module.
        network: the class, or a function that returns it.
        variants: name -> the arguments of ``network`` that define it.
        cfg: differences from the default configuration (``paper_ids``, ``license``, …).
    """
    module = sys.modules[module_name]
    base = {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv.conv",
        "classifier": "classifier",
    }
    cfgs: dict[str, Any] = {}
    for name in variants:
        # if there are weights, the entry with a star keeps the variant without weights the default
        trained = weights_of(name)
        cfgs |= {weights.name: {**base, **cfg, **weights.timm_cfg()} for weights in trained}
        cfgs[f"{name}.*" if trained else name] = {**base, **cfg}
    module.default_cfgs = generate_default_cfgs(cfgs)  # type: ignore[attr-defined]

    accepts = {name for name in inspect.signature(network).parameters if name != "options"} | {*Options.__annotations__}

    types = typing.get_type_hints(network.__init__ if isinstance(network, type) else network)  # type: ignore[misc]

    def entry_point(name: str, arguments: Mapping[str, Any]) -> Callable[..., nn.Module]:
        def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
            weights, given = _named_weights(name, kwargs.get("pretrained_cfg")), kwargs
            if pretrained and weights is None:
                _check_source(name, kwargs)
            if weights is not None:
                kwargs = {**weights.form, **kwargs}
                if _loads(weights, kwargs):
                    kwargs.setdefault("pretrained_filter_fn", _say_form(weights, network, arguments))
            num_levels = len(stem_levels(1, kwargs.get("stem", "imagenet"))) + NUM_STAGES
            feature_cfg = {"flatten_sequential": True, "feature_cls": "getter", "out_indices": tuple(range(num_levels))}
            built: list[StagedNet] = []

            def construct(device: Any = None, dtype: Any = None, **own: Any) -> StagedNet:
                with torch.device(device) if device is not None else nullcontext():
                    built.append(network(**own))
                return built[-1] if dtype is None else built[-1].to(dtype)

            model = build_model_with_cfg(
                construct,
                name,
                pretrained,
                feature_cfg={**feature_cfg, **kwargs.pop("feature_cfg", {})},
                **{**arguments, **kwargs},
            )
            if not any(form_of(part) for part in model.modules()):  # a feature extractor only kept the layers
                carry_form(model, form_of(built[-1]))
            # timm's save_for_hf only stores the arguments of its own create_model
            model._model_args = {key: value for key, value in kwargs.items() if key in accepts and key not in given}  # type: ignore[assignment]
            return model

        build.__name__ = build.__qualname__ = name
        build.__module__ = module_name
        build.__doc__ = f"{name}: {', '.join(f'{key}={value!r}' for key, value in arguments.items())}."
        build.accepts = accepts  # type: ignore[attr-defined]
        build.types = types  # type: ignore[attr-defined]
        return build

    for name, arguments in variants.items():
        setattr(module, name, register_model(entry_point(name, arguments)))


def _named_weights(name: str, cfg: Any) -> Weights | None:
    """Return the weights that timm's ``pretrained_cfg`` names: the tag of a name, or a configuration."""
    if cfg is not None and not isinstance(cfg, str):
        cfg = cfg.get("tag") if isinstance(cfg, Mapping) else cfg.tag
    found = find_weights().get(f"{name}.{cfg}")
    return found if found is not None and found.task == CLASSIFICATION else None


def _check_source(name: str, kwargs: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` if weights are asked for without saying which, and only tagged ones exist."""
    cfg, overlay = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay") or {}
    told = cfg if isinstance(cfg, Mapping) else vars(cfg) if cfg is not None and not isinstance(cfg, str) else {}
    known = [weights.name for weights in weights_of(name)]
    if known and not any(told.get(key) or overlay.get(key) for key in SOURCES):
        raise InputError(f"{name} has no weights without a tag: say which, {' or '.join(known)}")


def _loads(weights: Weights, kwargs: Mapping[str, Any]) -> bool:
    """Whether timm would load these weights' file: the configuration may also name another source."""
    overlay, cfg = kwargs.get("pretrained_cfg_overlay") or {}, kwargs["pretrained_cfg"]
    file = cfg.get("file") if isinstance(cfg, Mapping) else getattr(cfg, "file", str(weights.path))
    return file == str(weights.path) and not any(overlay.get(key) for key in SOURCES)


def _say_form(weights: Weights, network: Callable[..., StagedNet], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a filter for timm that adds the record's form to weights without a form."""

    def fill(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
        if any(map(is_form, state)):
            return state
        with torch.device("meta"):
            return with_form(state, network(**{**arguments, **weights.record["arguments"]}))

    return fill
