"""Training for int8: scales that are learned, and what becomes of a run and its checkpoint."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets import quantization as post_training
from compactnets.classification import quantization as of_classifiers
from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.classification.evaluation import evaluate
from compactnets.classification.preparation import prepare
from compactnets.classification.quantization import quantize
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK, TrainOptions
from compactnets.complexity import count
from compactnets.data import Preprocess, open_source
from compactnets.data.part import PartOfSource
from compactnets.deploy import FORMATS, export, load_artifact
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.int8 import Settings
from compactnets.deploy.int8 import training as qat
from compactnets.deploy.int8.comparison import Accuracy
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.layers import (
    HIGH,
    LOW,
    AveragingConv2d,
    Mode,
    Quantizer,
)
from compactnets.deploy.int8.learned import (
    LearnedConv2d,
    LearnedQuantizer,
    fix_scales,
    learn_scales,
)
from compactnets.deploy.int8.noise import relative_error
from compactnets.deploy.int8.quantized import (
    drop_output_quantizer,
    layers,
    output_quantizer,
    quantized_network,
    quantizers,
    set_mode,
    without_quantizers,
)
from compactnets.deploy.int8.ranges import calibrate
from compactnets.errors import InputError, LimitError
from compactnets.models.form import KEY, decode
from compactnets.tasks.opening import open_model
from compactnets.training.checkpoint import read_record, read_tensors, record_path
from compactnets.training.interruption import Interrupted
from compactnets.training.optimization import make_optimizer

from ...training.helpers import stop_after
from ..conftest import needs
from ..helpers import opened, tiny_network

QUICK = Settings(calibration_images=16, ranges="minmax")
EPOCHS = 2


def recipe(**changes: Any) -> ClassificationRecipe:
    settings: dict[str, Any] = {
        "model": "shufflenet_g3_x0_25",
        "epochs": EPOCHS,
        "batch_size": 32,
        "lr": 0.002,
        "model_arguments": {"stem": "cifar"},
        "optimizer": {"name": "adamw"},
        "preprocess": {"size": 8},
    }
    return ClassificationRecipe.model_validate({**settings, **changes})


def source(split: str, count: int) -> PartOfSource:
    """The first digits of a split."""
    return PartOfSource(open_source("digits", split), range(count))


def run_int8(output: Path, init: Path, **changes: Any) -> None:
    splits = source("train", 160), source("val", 100)
    TASK.train(recipe(**changes), *splits, output, init=init, options=TrainOptions(qat=True))


@pytest.fixture(scope="module", autouse=True)
def quick_calibration() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat, "Settings", lambda **given: replace(QUICK, **given))
        yield


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network that has seen a few digits."""
    output = tmp_path_factory.mktemp("float") / "run"
    TASK.train(recipe(lr=0.01), source("train", 480), source("val", 100), output)
    return output / "last.safetensors"


@pytest.fixture(scope="module")
def trained(init: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of training for int8."""
    output = tmp_path_factory.mktemp("int8") / "run"
    run_int8(output, init)
    return output


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return nn.functional.interpolate(torch.randn(16, 3, 6, 6, generator=generator), size=24, mode="bicubic")


@pytest.fixture
def form(images: Tensor) -> GraphModule:
    found = quantized_network(plain_graph(tiny_network(), images[:1]), quantize_output=True)
    calibrate(found, images.split(8), "minmax")
    set_mode(found, Mode.SIMULATE)
    return found


def test_learning_begins_and_ends_with_what_the_form_computes(form: GraphModule, images: Tensor) -> None:
    learning = learn_scales(copy.deepcopy(form))
    with torch.inference_mode():
        expected = form(images)
        torch.testing.assert_close(learning.eval()(images), expected, rtol=1e-4, atol=1e-5)
        # in training scales are differentiable: a value between two steps may go either way
        assert relative_error(expected, learning.train()(images)) < 0.1
    with torch.no_grad():
        for name, parameter in learning.named_parameters():
            if "log_scale" in name:
                parameter += 1.5
    with torch.inference_mode():
        moved = learning.eval()(images)
        assert relative_error(expected, moved) > 0.02
        fixed = fix_scales(copy.deepcopy(learning)).eval()
        assert torch.equal(fixed(images), moved)
    assert list(fixed.state_dict()) == list(form.state_dict())
    assert not any(parameter.requires_grad for parameter in fixed.parameters())


def test_gradients_stop_where_values_are_clipped() -> None:
    """Inputs inside, on and outside the range; the scale's gradient as LSQ's equation 3 has it, and zero stays zero."""
    plain = Quantizer()
    plain.set_range(-1.0, 2.0)
    quantizer = LearnedQuantizer(plain).train()
    scale, zero = float(plain.scale), int(plain.zero_point)
    x = torch.tensor([-9.0, -0.5, 0.0, 0.7003, 1.9, 9.0], requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 1, 1, 0], abs=1e-5)
    assert y[2] == 0
    torch.testing.assert_close(y[[0, -1]], torch.tensor([LOW - zero, HIGH - zero]) * scale)
    inside = x.detach()[1:-1] / scale
    by_scale = (LOW - zero) + (HIGH - zero) + float((inside.round() - inside).sum())
    assert quantizer.log_scale.grad is not None
    assert float(quantizer.log_scale.grad) == pytest.approx(by_scale * scale / math.sqrt(len(x) * HIGH), rel=1e-3)


def test_float16_and_bfloat16_are_rounded_in_float32() -> None:
    plain = Quantizer()
    plain.set_range(0.0, 1.0)
    quantizer = LearnedQuantizer(plain).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(torch.linspace(0, 1, 256, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    steps = found.detach() * 255
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_scales_do_not_decay_and_averages_are_not_trained(form: GraphModule) -> None:
    form.set_submodule("extra", AveragingConv2d(4, 4, 2, groups=4))
    form.delete_all_unused_submodules()
    learning = learn_scales(form)
    optimizer = make_optimizer(learning, recipe().optimizer, 0.1)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in learning.named_parameters():
        assert (decays[id(parameter)] == 0) == ("log_scale" in name), name
    averaging = [layer for _, layer in layers(learning) if not layer.trainable]
    assert len(averaging) == 1  # of the downsampling module's shortcut
    assert not any(parameter.requires_grad for layer in averaging for parameter in layer.parameters())
    assert isinstance(learning.get_submodule("stages.0.2.conv"), LearnedConv2d)


def test_training_lowers_the_loss_and_moves_weights_and_scales(trained: Path, init: Path) -> None:
    first, last = (json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines())
    assert last["train_loss"] < first["train_loss"]
    start = qat.prepare_int8(recipe(), source("train", 160), init).model.state_dict()
    end = read_tensors(trained / "last.safetensors")
    assert set(start) == set(end)
    for kind in ("conv.weight", "log_scale", "log_scales"):
        changed = [not torch.equal(start[key], end[key]) for key in end if key.endswith(kind)]
        assert sum(changed) > 0.5 * len(changed), kind
    assert all(torch.equal(start[key], end[key]) for key in end if key.endswith("zero_point"))


def test_the_form_of_the_network_travels_with_the_scales(trained: Path, tmp_path: Path) -> None:
    """A record that says another stem builds the same tensors, and another network."""
    path = tmp_path / "last.safetensors"
    document = json.loads((trained / "last.json").read_text())
    stem = document["arguments"].get("stem", "imagenet")
    document["arguments"]["stem"] = "imagenet" if stem == "cifar" else "cifar"
    shutil.copy(trained / "last.safetensors", path)
    path.with_suffix(".json").write_text(json.dumps(document))
    assert decode(read_tensors(path)[KEY])["stem"] == stem
    with pytest.raises(InputError, match="stem=|quantizers"):
        qat.load_int8(path)


def test_kernels_for_float_networks_are_refused(init: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kernels: own is not possible .*--qat"):
        run_int8(tmp_path / "run", init, kernels="own", channels_last=True)
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_ends_with_the_same_bits(init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {name: tmp_path / name for name in ("straight", "stopped")}
    changes = {"ema_decay": 0.9, "epochs": 1}
    run_int8(runs["straight"], init, **changes)

    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            run_int8(runs["stopped"], init, **changes)
    with pytest.raises(InputError, match="holds another run: --qat was True, now None"):
        TASK.train(recipe(**changes), source("train", 160), source("val", 100), runs["stopped"], init=init)
    run_int8(runs["stopped"], init, **changes)
    files = [(run / "last.safetensors").read_bytes() for run in runs.values()]
    assert files[0] == files[1]


def test_the_checkpoint_is_the_simulation_that_was_trained(trained: Path, images: Tensor) -> None:
    path = trained / "last.safetensors"
    record = read_record(path, CheckpointRecord)
    assert record.int8 is not None
    assert record.int8.logits == record.int8.quantizers[-1]
    opened_again = open_model(path, "cpu")
    model = opened_again.network
    assert opened_again.record == record
    found = evaluate(model, source("val", 100), Preprocess.from_dict(record.preprocess))
    assert found.top1 == record.training["top1_percent"]
    assert found.loss == pytest.approx(record.training["val_loss"], rel=1e-6)
    assert found.top1 > 30  # ten classes
    assert isinstance(model, GraphModule)
    steps = model(images[:, :1, :8, :8]) / model.get_submodule(record.int8.logits).scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    floating = without_quantizers(model)
    assert not list(quantizers(floating))
    assert relative_error(floating(images[:, :1, :8, :8]), model(images[:, :1, :8, :8])) > 0
    assert evaluate(floating, source("val", 100), Preprocess.from_dict(record.preprocess)).top1 > 30


def quantized(path: Path, form_name: str, output: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    model, record = opened(str(path))
    common = {"calibration": "digits", "evaluation": "digits", "max_drop": 100, "settings": QUICK, "rounds": 2}
    done = quantize(model, record, form_name, output, **{**common, **options})
    return done.record, done.report


@pytest.mark.parametrize(
    "name", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "executorch"))]
)
def test_runtimes_compute_what_was_trained(
    name: str, trained: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and ranges go into the artifact as they are, with the logits in int8 where the runtime wants it."""
    needs(name)
    monkeypatch.setattr(post_training, "measure", lambda *_, **__: {"failed": []})  # latency
    beside = ("start", *opened(str(init)))
    record, report = quantized(trained / "last.safetensors", name, tmp_path / "int8", float_network=beside)
    assert report["float"] == "start"
    assert report["trained_for_int8"]["init"] == str(init)
    assert report["settings"]["weight_bits"] == 7
    assert (report["settings"]["ranges"], report["settings"]["rounding"], report["kept_in_float"]) == (
        "trained",
        False,
        [],
    )
    simulation, _ = qat.load_int8(trained / "last.safetensors")
    if not FORMATS[name].int8_output:
        assert output_quantizer(simulation) is not None
        drop_output_quantizer(simulation)
        assert output_quantizer(simulation) is None
    digits = source("val", 40)
    preprocess = Preprocess.from_dict(record.network.preprocess)
    pixels = torch.stack([preprocess(digits.image(index)) for index in range(40)])
    with torch.inference_mode():
        assert relative_error(simulation(pixels), load_artifact(tmp_path / "int8")(pixels)) < 0.1
    expected = evaluate(load_checkpoint(init)[0], open_source("digits", "val"), preprocess)
    assert report["evaluation"]["float_correct"] == expected.top1_correct
    assert (record.macs, record.params) == count(load_checkpoint(init)[0], (1, 8, 8))


@pytest.mark.slow
def test_the_float_network_beside_is_that_of_the_same_weights(trained: Path, tmp_path: Path) -> None:
    needs("onnx")
    path = trained / "last.safetensors"
    _, report = quantized(path, "onnx", tmp_path / "int8")
    model, record = qat.load_int8(path)
    expected = evaluate(
        without_quantizers(model), open_source("digits", "val"), Preprocess.from_dict(record.preprocess)
    )
    assert report["float"] == "the same weights"
    assert report["evaluation"]["float_correct"] == expected.top1_correct


def test_past_the_limit_training_is_named_or_longer_training(init: Path, trained: Path, tmp_path: Path) -> None:
    needs("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post_training, "IN_FLOAT", ())
        patch.setattr(of_classifiers, "compare_accuracy", lambda *_: Accuracy(100, 90, 50, 0.5, 0.1))
        for method in ("write", "write_int8"):
            patch.setattr(Format, method, lambda *_, **__: {})
        with pytest.raises(LimitError, match=r"it was not kept; train it for int8 .*--qat --init"):
            quantized(init, "onnx", tmp_path / "int8", max_drop=39)
        with pytest.raises(LimitError, match="it was not kept; train longer"):
            quantized(trained / "last.safetensors", "onnx", tmp_path / "int8", max_drop=39)


def test_what_cannot_be_trained_for_int8_is_one_line(init: Path, trained: Path, tmp_path: Path) -> None:
    digits, path = source("train", 160), trained / "last.safetensors"
    renamed = copy.copy(digits)
    renamed.class_names = list("abcdefghij")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes())
    document = json.loads(record_path(path).read_text())
    document["int8"]["quantizers"][3] = "elsewhere"
    record_path(damaged).write_text(json.dumps(document))
    for call, message in (
        (lambda: qat.prepare_int8(recipe(), digits, None), "train --qat .* give --init"),
        (lambda: qat.prepare_int8(recipe(), digits, path), "was trained for int8"),
        (lambda: qat.prepare_int8(recipe(), renamed, init), "other classes than"),
        (lambda: prepare(recipe(), digits, path), "expected a float checkpoint"),
        (lambda: load_checkpoint(path), "was trained for int8"),
        (lambda: export(*opened(str(path)), "torch", tmp_path / "a"), "quantize"),
        (lambda: qat.load_int8(init), "was not trained for int8"),
        (lambda: qat.load_int8(damaged), "its .* quantizers"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
