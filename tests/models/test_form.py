"""The form of a network travels with its weights: every way of loading them gives the same logits, or an error.

Tensors do not tell the stem, MENet's fusion, or where MuffNet's channels go. Each case below is two networks with the
same names and shapes that compute different things; each way is tried with weights of the same form and of the other.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, load_model, save_file
from timm.models import _factory, _hub, get_pretrained_cfg, load_checkpoint
from timm.models._helpers import resume_checkpoint
from timm.models._hub import save_for_hf
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import compactnets
from compactnets.classification.checkpoint import load_checkpoint as read_checkpoint
from compactnets.errors import InputError
from compactnets.models import fifteen, menet, muffnet, shufflenet
from compactnets.models.form import KEY, FormError, FormWarning, carry_form, decode, encode, form_of, with_form
from compactnets.models.peers import PEERS
from compactnets.models.pretrained import find_weights
from compactnets.models.registry import FAMILIES, accepted_arguments, build_on_meta

Arguments = dict[str, Any]
ONE = [[2, 2, 4, 2], [0, 4, 2, 4], [0, 0, 4, 2], [0, 0, 0, 6]]  # two matrices whose rows and columns have equal sums
OTHER = [[2, 3, 3, 2], [0, 3, 3, 4], [0, 0, 4, 2], [0, 0, 0, 6]]
PLAIN = {"sharing": ["average", "none", "none"], "widths": [2, 3, 4], "head_channels": 8}

# name, what makes it small, and two forms of it
CASES: dict[str, tuple[str, Arguments, Arguments, Arguments]] = {
    "menet stem": (
        "menet_108_8x1_g3",
        {"residual_width": 24, "fusion_width": 2},
        {"stem": "cifar"},
        {"stem": "imagenet"},
    ),
    "menet fusion": (
        "menet_108_8x1_g3",
        {"residual_width": 24, "fusion_width": 2},
        {"fusion": "add"},
        {"fusion": "product"},
    ),
    "muffnet stem": ("muffnet_x0_5", PLAIN, {"stem": "cifar"}, {"stem": "imagenet"}),
    "muffnet sharing": (
        "muffnet_x0_5",
        {"widths": [None, 2, 3], "head_channels": 8},
        {"sharing": [ONE, "none", "none"]},
        {"sharing": [OTHER, "none", "none"]},
    ),
    "muffnet learned": ("muffnet_x0_5", {"sharing": "learned"}, {"stem": "cifar"}, {"stem": "imagenet"}),
    "shufflenet stem": (
        "shufflenet_g3_x0_25",
        {"width": 24, "stem_channels": 6},
        {"stem": "cifar"},
        {"stem": "imagenet"},
    ),
    "resnet15 stem": ("resnet15_38m", {"width": 8}, {"stem": "cifar"}, {"stem": "imagenet"}),
    "resnext15 stem": ("resnext15_38m", {"width": 8}, {"stem": "cifar"}, {"stem": "imagenet"}),
    "xception15 stem": ("xception15_38m", {"width": 24}, {"stem": "cifar"}, {"stem": "imagenet"}),
}
every_case = pytest.mark.parametrize("case", CASES)


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _same_weights_on_every_run() -> None:
    """Of some random weights, the two forms of a small network compute the same: nothing passes a ReLU."""
    torch.manual_seed(1)


def randomized(network: nn.Module) -> nn.Module:
    """Give batch normalisation statistics of its own, so that no layer is without effect."""
    generator = torch.Generator().manual_seed(3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.5, generator=generator)
    return network.eval()


def pair(case: str, swapped: bool = False) -> tuple[str, Arguments, Arguments]:
    name, small, one, other = CASES[case]
    forms = ({**small, **one}, {**small, **other})
    return (name, *reversed(forms)) if swapped else (name, *forms)


def same(one: nn.Module, other: nn.Module, x: Tensor | None = None) -> bool:
    x = images() if x is None else x
    with torch.no_grad():
        found, expected = one.eval()(x), other.eval()(x)
    if isinstance(found, Tensor):
        return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    maps, others = ([*value.values()] if isinstance(value, dict) else value for value in (found, expected))
    return all(torch.allclose(*each, rtol=1e-5, atol=1e-5) for each in zip(maps, others, strict=True))


# every way to load


def unmarked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith(KEY)}


def _file(network: nn.Module, folder: Path) -> str:
    torch.save(network.state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth")


def _safe_file(network: nn.Module, folder: Path) -> str:
    save_file(network.state_dict(), folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


def checkpoint_path(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    return timm.create_model(name, checkpoint_path=_file(network, folder), **arguments)


def checkpoint_path_safetensors(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    return timm.create_model(name, checkpoint_path=_safe_file(network, folder), **arguments)


def checkpoint_of_a_trainer(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    """What timm's own ``train.py`` writes: an average, too, and the prefixes of wrappers."""
    prefixed = {f"module._orig_mod.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": unmarked(prefixed), "state_dict_ema": prefixed, "epoch": 3}, folder / "last.pth.tar")
    return timm.create_model(name, checkpoint_path=str(folder / "last.pth.tar"), **arguments)


def load_checkpoint_of_timm(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    load_checkpoint(target, _file(network, folder))
    return target


def load_checkpoint_not_strict(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    load_checkpoint(target, _safe_file(network, folder), strict=False)
    return target


def load_checkpoint_remapped(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    """By the order of the tensors, whatever their names."""
    target = timm.create_model(name, **arguments)
    renamed = {
        f"{number}{'.' + KEY if KEY in key else ''}": v for number, (key, v) in enumerate(network.state_dict().items())
    }
    torch.save(renamed, folder / "weights.pth")
    load_checkpoint(target, str(folder / "weights.pth"), remap=True)
    return target


def resumed_by_timm(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    torch.save({"state_dict": network.state_dict(), "epoch": 1}, folder / "weights.pth")
    resume_checkpoint(target, str(folder / "weights.pth"))
    return target


def overlay_file(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    overlay = {"file": _safe_file(network, folder), "num_classes": arguments.get("num_classes", 1000)}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)


def overlay_state_dict(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    overlay = {"state_dict": network.state_dict(), "num_classes": arguments.get("num_classes", 1000)}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)


def configuration(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    cfg = {"file": _file(network, folder), "num_classes": arguments.get("num_classes", 1000)}
    return timm.create_model(name, pretrained=True, pretrained_cfg=cfg, **arguments)


def state_dict(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    target.load_state_dict(network.state_dict())
    return target


def state_dict_not_strict(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    target.load_state_dict(network.state_dict(), strict=False)
    return target


def state_dict_assigned(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    """A network without memory, to which the tensors of a state are given."""
    target = timm.create_model(name, device="meta", **arguments)
    target.load_state_dict(copy.deepcopy(network.state_dict()), assign=True)
    return target


def after_a_new_classifier(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **{**arguments, "num_classes": 3})
    target.reset_classifier(network.num_classes)
    target.load_state_dict(network.state_dict())
    return target


def load_model_of_safetensors(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    load_model(target, _safe_file(network, folder))
    return target


def data_parallel(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    nn.DataParallel(target).load_state_dict(nn.DataParallel(network).state_dict())
    return target


def compiled(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    torch.compile(target).load_state_dict(torch.compile(network).state_dict())
    return target


def average_of_weights(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    average = ModelEmaV3(network, foreach=True)
    average.update(network, step=1)
    target = timm.create_model(name, **arguments)
    target.load_state_dict(average.module.state_dict())
    return target


def averaged_files(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    """As timm's ``avg_checkpoints.py``: every entry, whatever it is, becomes float32."""
    state = {key: (2 * value.to(torch.float64) / 2).to(torch.float32) for key, value in network.state_dict().items()}
    target = timm.create_model(name, **arguments)
    target.load_state_dict(state)
    return target


def halved(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, dtype=torch.bfloat16, **arguments)
    target.load_state_dict({key: value.to(torch.bfloat16) for key, value in network.state_dict().items()})
    half = copy.deepcopy(network).to(torch.bfloat16).float()
    network.load_state_dict(half.state_dict())  # what is left of its weights
    return target.float()


def pickled_network(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    torch.save(network, folder / "network.pt")
    # a way by which people keep whole networks; the file is the one of the line above
    again = torch.load(folder / "network.pt", weights_only=False)
    target = copy.deepcopy(timm.create_model(name, **arguments))
    target.load_state_dict(again.state_dict())
    return target


def inside_another_module(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    target = timm.create_model(name, **arguments)
    nn.ModuleDict({"body": target}).load_state_dict(nn.ModuleDict({"body": network}).state_dict())
    return target


def local_dir(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    save_for_hf(network, str(folder / "hub"))
    return timm.create_model(f"local-dir:{folder / 'hub'}", pretrained=True, **arguments)


def hub(network: nn.Module, folder: Path, name: str, arguments: Arguments) -> nn.Module:
    save_for_hf(network, str(folder / "hub"), safe_serialization="both")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.models._hub.hf_hub_download", partial(_from_folder, folder / "hub"))
        return timm.create_model("hf-hub:someone/network@main", pretrained=True, **arguments)


def _from_folder(folder: Path, repo_id: str, filename: str, **_: object) -> str:
    assert repo_id == "someone/network"
    return str(folder / filename)


WAYS: list[Callable[[nn.Module, Path, str, Arguments], nn.Module]] = [
    checkpoint_path,
    checkpoint_path_safetensors,
    checkpoint_of_a_trainer,
    load_checkpoint_of_timm,
    load_checkpoint_not_strict,
    resumed_by_timm,
    overlay_file,
    overlay_state_dict,
    configuration,
    state_dict,
    state_dict_not_strict,
    state_dict_assigned,
    after_a_new_classifier,
    load_model_of_safetensors,
    data_parallel,
    compiled,
    average_of_weights,
    averaged_files,
    halved,
    pickled_network,
    inside_another_module,
    local_dir,
    hub,
]


def check_way(way: Callable[..., nn.Module], case: str, swapped: bool, folder: Path) -> None:
    name, own, other = pair(case, swapped)
    network = randomized(timm.create_model(name, num_classes=5, **own))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FormWarning)
        assert same(way(network, folder, name, {"num_classes": 5, **own}), network)
        with pytest.raises(RuntimeError) as caught:
            way(network, folder, name, {"num_classes": 5, **other})
    assert isinstance(caught.value, FormError)
    assert isinstance(caught.value, InputError)  # one line, and exit code 2, on the command line
    (key,) = {key for key in own if own[key] != other[key]}
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", [way for way in WAYS if way is not compiled], ids=lambda way: way.__name__)
def test_every_way_gives_the_same_logits_or_an_error(way: Callable[..., nn.Module], tmp_path: Path) -> None:
    check_way(way, "shufflenet stem", True, tmp_path)


@every_case
def test_every_family_and_form(case: str, tmp_path: Path) -> None:
    check_way(local_dir, case, False, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@every_case
@pytest.mark.parametrize("swapped", [False, True])
def test_every_way_of_every_family(way: Callable[..., nn.Module], case: str, swapped: bool, tmp_path: Path) -> None:
    check_way(way, case, swapped, tmp_path)


@every_case
def test_the_two_forms_of_a_case_differ_in_nothing_but_their_form(case: str) -> None:
    """Else the tests above would prove nothing."""
    name, own, other = pair(case)
    one, two = randomized(timm.create_model(name, **own)), randomized(timm.create_model(name, **other))
    shapes = [{key: value.shape for key, value in unmarked(net.state_dict()).items()} for net in (one, two)]
    assert shapes[0] == shapes[1]
    two.load_state_dict(with_form(one.state_dict(), two, replace=True))
    assert not same(one, two)


def test_tensors_in_order_of_another_form_are_refused_too(tmp_path: Path) -> None:
    """timm's ``remap`` pairs tensors by their order; the form is the last, and has no other length or value."""
    name, own, other = pair("shufflenet stem")
    network = randomized(timm.create_model(name, num_classes=5, **own))
    assert same(load_checkpoint_remapped(network, tmp_path, name, {"num_classes": 5, **own}), network)
    with pytest.raises((AssertionError, RuntimeError)):
        load_checkpoint_remapped(network, tmp_path, name, {"num_classes": 5, **other})
    assert [*network.state_dict()][-1] == KEY


def test_nothing_is_copied_where_the_form_is_another() -> None:
    name, own, other = pair("shufflenet stem")
    one, two = timm.create_model(name, **own), timm.create_model(name, **other)
    before = copy.deepcopy(two.state_dict())
    given = one.state_dict()
    with pytest.raises(FormError):
        two.load_state_dict(given)
    assert all(torch.equal(value, before[key]) for key, value in two.state_dict().items())
    assert KEY in given, "the caller's own state is left as it is"


# the Hub: the form is in the configuration, so that nobody has to give it


@pytest.mark.parametrize("way", [local_dir, hub], ids=lambda way: way.__name__)
@pytest.mark.parametrize("weights", find_weights().values(), ids=lambda weights: weights.name)
def test_weights_by_name_go_through_the_hub(way: Callable[..., nn.Module], weights: Any, tmp_path: Path) -> None:
    """The report's first failure: the form comes with the tag there, and no argument names it."""
    network = timm.create_model(weights.name, pretrained=True).eval()
    again = way(network, tmp_path, weights.model, {})
    assert form_of(again) == form_of(network)
    assert same(again, network)


@pytest.mark.skipif(
    not hasattr(_hub, "get_model_args"), reason="this timm does not write the arguments: it is an error, tested below"
)
@pytest.mark.parametrize("case", ["menet fusion", "muffnet sharing", "shufflenet stem"])
def test_the_hub_needs_no_arguments(case: str, tmp_path: Path) -> None:
    way = hub if case.startswith("menet") else local_dir
    name, own, _ = pair(case)
    network = randomized(timm.create_model(name, num_classes=5, in_chans=1, **own))
    assert same(way(network, tmp_path, name, {}), network, images(channels=1))
    network.reset_classifier(3)
    assert same(way(network, tmp_path, name, {}), network, images(channels=1))
    network.reset_classifier(0, "")
    again = way(network, tmp_path, name, {})
    assert same(again, network, images(channels=1)), "the map, not its mean"


def test_a_configuration_without_arguments_is_an_error(tmp_path: Path) -> None:
    """As older versions of timm write it: the form is in the weights alone."""
    network = timm.create_model("shufflenet_g3_x0_25", stem="cifar", num_classes=5)
    save_for_hf(network, str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config.pop("model_args", None)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FormError, match='stem="cifar"'):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_every_name_goes_through_the_hub(name: str, stem: str, tmp_path: Path) -> None:
    network = randomized(timm.create_model(name, num_classes=5, stem=stem))
    assert same(local_dir(network, tmp_path, name, {}), network)
    other = "cifar" if stem == "imagenet" else "imagenet"
    with pytest.raises(FormError):
        state_dict(network, tmp_path, name, {"num_classes": 5, "stem": other})


# weights by name


@pytest.mark.parametrize("weights", find_weights().values(), ids=lambda weights: weights.name)
class TestByName:
    def test_every_spelling_gives_the_same_network(self, weights: Any) -> None:
        expected, _ = read_checkpoint(weights.name)
        cfg = get_pretrained_cfg(weights.name)
        path = str(weights.path)
        form = weights.record["arguments"]
        for network in (
            timm.create_model(weights.name, pretrained=True),
            timm.create_model(weights.model, pretrained=True, pretrained_cfg=weights.tag),
            timm.create_model(weights.model, pretrained=True, pretrained_cfg=cfg),
            timm.create_model(weights.model, pretrained=True, pretrained_cfg=cfg.to_dict()),
            timm.create_model(weights.name, checkpoint_path=path),
            timm.create_model(weights.model, checkpoint_path=path, **form),
            compactnets.create_model(weights.name, pretrained=True),
        ):
            assert same(network, expected)

    @pytest.mark.skipif(
        not hasattr(_factory, "resolve_model_input_args"), reason="timm 1.0.21 does not resolve names so"
    )
    def test_the_way_of_timms_own_scripts(self, weights: Any) -> None:
        expected, _ = read_checkpoint(weights.name)
        resolved = _factory.resolve_model_input_args(weights.name)
        assert same(timm.create_model(pretrained=True, **resolved), expected)

    @pytest.mark.parametrize("loose", [pytest.param(False, marks=pytest.mark.slow), True])
    def test_another_form_is_an_error(self, weights: Any, loose: bool) -> None:
        """Also for another number of classes or channels, where timm loads what is left not strictly."""
        other = {"stem": "imagenet", **({"num_classes": 3, "in_chans": 1} if loose else {})}
        path = str(weights.path)
        overlay = {"file": path, "num_classes": weights.record["arguments"]["num_classes"]}
        for build in (
            lambda: timm.create_model(weights.name, pretrained=True, **other),
            lambda: compactnets.create_model(weights.name, pretrained=True, **other),
            lambda: timm.create_model(weights.name, pretrained=True, features_only=True, **other),
            lambda: timm.create_model(weights.model, pretrained=True, pretrained_cfg_overlay=overlay, **other),
            lambda: timm.create_model(weights.model, pretrained=True, pretrained_cfg_overlay={"file": path}, **other),
        ):
            with pytest.raises(FormError, match='stem="cifar", not stem="imagenet"'):
                build()

    def test_other_classes_and_channels_keep_the_form(self, weights: Any) -> None:
        whole = timm.create_model(weights.name, pretrained=True).eval()
        other = timm.create_model(weights.name, pretrained=True, num_classes=3).eval()
        with torch.no_grad():
            assert torch.equal(other.forward_features(images()), whole.forward_features(images()))
        grey = timm.create_model(weights.name, pretrained=True, in_chans=1)
        assert form_of(grey) == form_of(whole)
        backbone = timm.create_model(weights.name, pretrained=True, features_only=True).eval()
        _, maps = whole.forward_intermediates(images())
        with torch.no_grad():
            assert all(torch.equal(*each) for each in zip(backbone(images()), maps, strict=True))

    def test_a_file_older_than_forms_has_that_of_its_record(
        self, weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected, _ = read_checkpoint(weights.name)
        path = tmp_path / weights.path.name
        save_file(unmarked(load_file(weights.path)), path)
        old = dataclasses.replace(weights, path=path)
        monkeypatch.setattr("compactnets.models.staged.find_weights", lambda: {old.name: old})
        cfg = {**get_pretrained_cfg(weights.name).to_dict(), "file": str(path), "tag": weights.tag}
        with warnings.catch_warnings():
            warnings.simplefilter("error", FormWarning)
            assert same(timm.create_model(weights.model, pretrained=True, pretrained_cfg=cfg), expected)
            with pytest.raises(FormError):
                timm.create_model(weights.model, pretrained=True, pretrained_cfg=cfg, stem="imagenet")

    def test_the_file_says_its_form(self, weights: Any) -> None:
        assert decode(load_file(weights.path)[KEY]) == form_of(
            build_on_meta(weights.model, weights.record["arguments"])
        )


# feature extractors, which take the network to pieces


@pytest.mark.parametrize("kind", ["getter", "hook", "list", "dict", "fx"])
@pytest.mark.parametrize("case", ["shufflenet stem", *(pytest.param(case, marks=pytest.mark.slow) for case in CASES)])
def test_feature_extractors(kind: str, case: str, tmp_path: Path) -> None:
    name, own, other = pair(case)
    build = partial(timm.create_model, name, features_only=True, feature_cls=kind)
    network = randomized(build(**own))
    assert same(build(checkpoint_path=_file(network, tmp_path), **own), network)
    with pytest.raises(FormError):
        build(checkpoint_path=_file(network, tmp_path), **other)


# which arguments are a form


VALUES: dict[str, list[Any]] = {
    "depths": [[4, 8, 4], [2, 3, 2]],
    # what tensors do not tell
    "stem": ["imagenet", "cifar"],
    "fusion": ["product", "add"],
    "sharing": [
        "average+none+none",
        "linear+none+none",
        "dense+none+none",
        [ONE, "none", "none"],
        [OTHER, "none", "none"],
    ],
    "reading": ["entry", "row"],
    "widths": [[6, 2, 3], [5.5, 2, 3]],
    # what they tell
    "residual_width": [24, 36],
    "fusion_width": [2, 3],
    "expansion": [1.0, 1.2, 2.0],
    "groups": [1, 2, 3],
    "stem_channels": [6, 12],
    "head_channels": [8, 12],
    "base_widths": [(4, 8, 12), (4, 8, 13)],
    "plain_widths": [(4, 8, 12), (4, 8, 13)],
    "scale": [0.25, 0.5],
    "width": [24, 36],
    "unit": ["resnet", "resnext", "xception"],
    "bottleneck": [2, 4],
    # what does not change the network's own computation
    "num_classes": [5, 6],
    "in_chans": [3, 1],
    "drop_rate": [0.0, 0.5],
    "global_pool": ["avg"],
    "drop_path_rate": [0.0, 0.5],
    "output_stride": [32],  # other values are for the same weights at other sizes of the maps, so they are no form
}
SMALL: dict[str, Arguments] = {
    "menet_108_8x1_g3": {"residual_width": 36, "fusion_width": 2, "groups": 3, "stem_channels": 12},
    "muffnet_x0_5": {"sharing": "average+none+none", "widths": [6, 2, 3], "head_channels": 8, "stem_channels": 6},
    "shufflenet_g3_x0_25": {"width": 36, "groups": 3, "stem_channels": 6},
    "resnet15_38m": {"width": 24, "stem_channels": 6},
}


LONG = {"shufflenet_g3_x0_25": pytest.mark.slow, "resnet15_38m": pytest.mark.slow}  # their stem is all they have


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG.get(name, ())) for name in SMALL])
def test_every_argument_that_tensors_do_not_tell_is_in_the_form(name: str) -> None:
    """Two networks of a family with the same tensors compute the same, or have another form: for all its arguments."""
    accepted = accepted_arguments(name) | {*_positional(name)}
    assert accepted <= {*VALUES}, "give values of a new argument, so that this test tries it"
    built: list[nn.Module] = []
    for key in sorted(accepted):
        for value in VALUES[key]:
            arguments = {"num_classes": 5, **SMALL[name], key: value}
            if key in ("base_widths", "plain_widths"):
                del arguments["sharing"], arguments["widths"]
            if key == "sharing" and not isinstance(value, str):
                arguments["widths"] = [None, 2, 3]
            try:
                built.append(randomized(timm.create_model(name, **arguments)))
            except InputError:  # values that do not go together
                continue
    assert len({json.dumps(form_of(network)) for network in built}) > 1
    groups: dict[Any, dict[str, nn.Module]] = {}
    for network in built:
        tensors = frozenset((key, value.shape) for key, value in unmarked(network.state_dict()).items())
        first = groups.setdefault(tensors, {}).setdefault(json.dumps(form_of(network)), network)
        network.load_state_dict(first.state_dict())
        assert same(first, network, images(channels=first.in_chans)), "another form that nothing tells"
    assert max(map(len, groups.values())) > 1, "two forms of equal tensors are told apart"


def _positional(name: str) -> list[str]:
    family = {"menet": menet, "muffnet": muffnet, "shufflenet": shufflenet, "fifteen": fifteen}[FAMILIES[name]]
    return [*family.VARIANTS[name]]


@pytest.mark.slow
def test_no_two_networks_of_the_package_are_taken_for_each_other() -> None:
    """Whatever their names: equal tensors mean an equal network or another form."""
    known: dict[Any, list[tuple[str, str]]] = {}
    pairs = 0
    for name in [*FAMILIES, *PEERS]:
        for stem in PEERS[name].stems if name in PEERS else ("imagenet", "cifar"):
            try:
                network = build_on_meta(name, {"stem": stem})
            except InputError:  # an extra that is not here
                continue
            key = frozenset((key, value.shape) for key, value in unmarked(network.state_dict()).items())
            found = (name, json.dumps(form_of(network)))
            if key in known:
                pairs += 1
            for other, form in known.get(key, []):
                if form == found[1]:  # xception15_38m is shufflenet_g1_x0_5, for one
                    one, two = (randomized(compactnets.create_model(each, stem=stem)) for each in (name, other))
                    two.load_state_dict(one.state_dict())
                    assert same(one, two), f"{name} is taken for {other}"
            known.setdefault(key, []).append(found)
    assert pairs > 60  # each family's two stems, at least


@pytest.mark.parametrize("name", ["igcv2_x0_25", pytest.param("googlenet", marks=pytest.mark.slow)])
def test_peers(name: str) -> None:
    one, two = (compactnets.create_model(name, stem=stem, num_classes=3) for stem in ("cifar", "imagenet"))
    with pytest.raises(FormError, match='stem="cifar"'):
        two.load_state_dict(one.state_dict())
    one.load_state_dict(one.state_dict())
    assert not form_of(build_on_meta("vgg16", {})), "it has one form alone"


# weights that do not say their form


@pytest.mark.parametrize("swapped", [False, True])
def test_weights_of_unknown_form_load_with_a_warning(swapped: bool) -> None:
    name, own, _ = pair("shufflenet stem", swapped)
    network, target = timm.create_model(name, **own), timm.create_model(name, **own)
    with pytest.warns(FormWarning, match=f'stem="{own["stem"]}"') as caught:
        target.load_state_dict(unmarked(network.state_dict()))
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert same(network, target)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FormWarning)
        target.load_state_dict({"classifier.bias": torch.zeros(1000)}, strict=False)  # no layer that a form changes


def test_what_is_no_form_is_refused() -> None:
    network = timm.create_model("shufflenet_g3_x0_25")
    state = network.state_dict()
    for entry in (torch.zeros(3), torch.tensor([123.5]), {"stem": "cifar"}, torch.tensor([91, 93]), torch.rand(2, 2)):
        with pytest.raises(FormError, match=KEY):
            network.load_state_dict({**state, KEY: entry})
    with pytest.raises(FormError, match='newer="x"'):
        network.load_state_dict({**state, KEY: encode({**form_of(network), "newer": "x"})})


def test_a_form_is_no_part_of_the_computation() -> None:
    """No parameter, no buffer, nothing in an exported program; and what a library reads first is another entry."""
    network = timm.create_model("shufflenet_g3_x0_25", stem="cifar", num_classes=5).eval()
    assert not [key for key, _ in [*network.named_parameters(), *network.named_buffers()] if KEY in key]
    program = torch.export.export(network, (images(),))
    assert not [spec for spec in program.graph_signature.input_specs if KEY in str(spec.target)]
    assert torch.equal(program.module()(images()), network(images()))
    assert next(iter(network.state_dict())) == "stem.conv.conv.weight"
    with torch.device("meta"):
        assert decode(timm.create_model("shufflenet_g3_x0_25").state_dict()[KEY]) == {"stem": "imagenet"}


def test_a_copied_graph_keeps_its_form() -> None:
    """The backbone of a detector is one; an average of its weights is a copy."""
    graph = torch.fx.symbolic_trace(timm.create_model("shufflenet_g3_x0_25"))
    carry_form(graph, {"stem": "imagenet"})
    again = copy.deepcopy(graph)
    assert [*again.state_dict()] == [*graph.state_dict()]
    with pytest.raises(FormError):
        again.load_state_dict({**graph.state_dict(), KEY: encode({"stem": "cifar"})})


def test_a_form_reads_as_it_is_written() -> None:
    form = {"stem": "cifar", "sharing": [[[1, 2], [0, 3]]]}
    module = nn.Linear(1, 1)
    carry_form(module, {"stem": "cifar", "sharing": (((1, 2), (0, 3)),)})
    assert form_of(module) == form == decode(encode(form)) == decode(module.state_dict()[KEY].half())
    carry_form(module, {"stem": "imagenet"})  # once more, with one entry in the state still
    assert decode(module.state_dict()[KEY]) == {"stem": "imagenet"}
    assert decode(encode(form).to("meta")) is None
