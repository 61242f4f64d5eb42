"""int8: what each step promises, every format against the simulation, and the whole on a small source of images."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.classification.quantization import quantize
from compactnets.deploy import FORMATS, deploy_form, load_artifact
from compactnets.deploy.formats import onnx as onnx_format
from compactnets.deploy.int8 import Settings
from compactnets.deploy.int8.equalization import equalize
from compactnets.deploy.int8.graph import module_of, plain_graph
from compactnets.deploy.int8.layers import Mode, Quantizer
from compactnets.deploy.int8.lowering import (
    DEQUANTIZE,
    QUANTIZE,
    GroupByGroup,
    separate_groups,
    shuffle_in_int8,
)
from compactnets.deploy.int8.noise import (
    keep_float,
    layer_errors,
    relative_error,
    sensitivities,
)
from compactnets.deploy.int8.quantized import (
    freeze,
    layers,
    quantized_network,
    quantizers,
    set_mode,
    set_weight_bits,
)
from compactnets.deploy.int8.ranges import METHODS, calibrate
from compactnets.deploy.int8.rounding import correct_biases, output_means, round_weights
from compactnets.deploy.int8.steps import calibrated, settled
from compactnets.deploy.record import LAYERS, NAME
from compactnets.errors import InputError, LimitError
from compactnets.models.registry import list_models
from compactnets.nn import ChannelShuffle

from ...names import one_of_each_kind
from ..conftest import needs
from ..helpers import SIZE, Small, check_delegated, small_form, tiny_network, tiny_record, write_pictures

INT8 = [name for name, form in FORMATS.items() if form.int8]


def pictures(count: int = 16, side: int = SIZE) -> Tensor:
    """Smooth random images: (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    return nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")


def form_of(model: nn.Module, images: Tensor, *, quantize_output: bool = False) -> GraphModule:
    """A calibrated form, its weights not rounded yet."""
    form = quantized_network(plain_graph(model, images[:1]), quantize_output=quantize_output)
    calibrate(form, images.split(8), "minmax")
    return form


@pytest.mark.parametrize("name", one_of_each_kind(list_models()))
def test_every_network_has_a_quantised_form(name: str) -> None:
    """Off it is the network, on it is near, and no layer with weights is left out."""
    model, side = small_form(name)
    images = pictures(8, side)
    exact = copy.deepcopy(model).double()  # in float32 a deep network of random weights makes 1e-3 of a rounding
    graph = plain_graph(exact, images[:1].double())
    with torch.inference_mode():
        assert relative_error(exact(images.double()), graph(images.double())) < 1e-9
    form = form_of(model, images)
    assert len(list(layers(form))) >= sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in deploy_form(model).modules())
    with torch.inference_mode():
        expected = plain_graph(model, images[:1])(images)
        assert torch.equal(form(images), expected)
        set_mode(form, Mode.SIMULATE)
        assert 0 < relative_error(expected, form(images)) < 0.7


def test_equalising_changes_nothing_but_the_ranges() -> None:
    images = pictures()
    model = tiny_network()
    with torch.no_grad():  # one channel a hundred times the others, as batch normalisation can leave it
        model.stages[0][0].compress.norm.weight[1] *= 100
        model.stages[0][0].compress.norm.bias[1] *= 100
    graph = plain_graph(model, images[:1])
    with torch.inference_mode():
        expected = graph(images)
    before = _worst_spread(graph, images)
    assert equalize(graph, images.split(8)) > 3
    with torch.inference_mode():
        torch.testing.assert_close(graph(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert _worst_spread(graph, images) < before / 5


def test_equalising_leaves_channels_alone_that_are_always_zero() -> None:
    """Their weights would grow in every round, beyond what a runtime's scales can hold."""
    images, model = pictures(), Small().eval()
    with torch.no_grad():
        model.first.bias[3] = -100.0
    graph = plain_graph(model, images[:1])
    assert equalize(graph, images.split(8)) == 2
    before, after = model.first.weight, graph.get_submodule("first").weight
    torch.testing.assert_close(after[3], before[3])
    assert not torch.allclose(after[4], before[4])


def _worst_spread(graph: GraphModule, images: Tensor) -> float:
    """Largest channel of the first compressing layer's output as a multiple of the median one."""
    found: list[Tensor] = []
    layer = graph.get_submodule("stages.0.0.compress.conv")
    handle = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.inference_mode():
        graph(images)
    handle.remove()
    channels = found[0].relu().amax((0, 2, 3))
    return float(channels.max() / channels.median())


@pytest.mark.parametrize("method", METHODS)
def test_ranges_leave_outliers_out_or_not(method: str) -> None:
    values = torch.cat([torch.randn(20_000, generator=torch.Generator().manual_seed(0)), torch.tensor([100.0])])
    low, high = METHODS[method](values[torch.randperm(len(values))])
    assert -6 < low < -1
    assert high == 100 if method == "minmax" else high <= 100 if method == "mse" else high < 70
    assert METHODS[method](torch.zeros(100)) == (0, 0)


def test_a_quantizer_holds_zero_exactly_and_clips() -> None:
    quantizer = Quantizer()
    quantizer.set_range(0.5, 2.0)
    quantizer.mode = Mode.SIMULATE
    assert quantizer.non_negative
    found = quantizer(torch.tensor([-1.0, 0.0, 1.0, 3.0]))
    assert found[:2].tolist() == [0, 0]
    assert found[2] == pytest.approx(1, abs=2 / 255)
    assert found[3] == pytest.approx(2)
    scale, zero_point, low, high, dtype = quantizer.numbers(unsigned=True)
    assert (zero_point, low, high, dtype) == (0, 0, 255, torch.uint8)
    assert scale == pytest.approx(2 / 255)


def test_rounding_brings_the_network_nearer() -> None:
    images, fresh = pictures(32), pictures(48)[32:]
    form = form_of(tiny_network(), images)
    for _, quantizer in quantizers(form):
        quantizer.enabled = False  # weights alone
    with torch.inference_mode():
        expected = form(fresh)
        set_mode(form, Mode.SIMULATE)
        nearest = relative_error(expected, form(fresh))
    round_weights(form, images)
    for _, layer in layers(form):
        steps = layer.weight.detach() / layer.scales.view(-1, *[1] * (layer.weight.dim() - 1))
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    with torch.inference_mode():
        assert relative_error(expected, form(fresh)) < nearest


@pytest.mark.parametrize("spoil", ["ranges", "weights"])
def test_correcting_gives_the_means_of_float_back(spoil: str) -> None:
    """Ranges that clip, and weights that are rounded, shift the means of all that follows."""
    images = pictures(32)
    form = form_of(tiny_network(), images)
    set_mode(form, Mode.OFF)
    wanted = output_means(form, images)
    if spoil == "ranges":
        for _, quantizer in quantizers(form):
            if not quantizer.fixed:
                quantizer.scale *= 0.6
    else:
        for _, layer in layers(form):
            layer.scales *= 32
            layer.weight.data = (layer.weight / layer.scales.view(-1, *[1] * (layer.weight.dim() - 1))).round()
            layer.weight.data *= layer.scales.view(-1, *[1] * (layer.weight.dim() - 1))
    set_mode(form, Mode.SIMULATE)
    shift = max(float((mean - wanted[name]).abs().max()) for name, mean in output_means(form, images).items())
    assert shift > 0.05
    correct_biases(form, images, wanted)
    for name, mean in output_means(form, images).items():
        torch.testing.assert_close(mean, wanted[name], rtol=1e-3, atol=1e-3)


def test_errors_name_the_layer_that_was_spoilt() -> None:
    images = pictures()
    form = form_of(tiny_network(), images)
    reference = copy.deepcopy(form)
    spoilt = "stages.0.2.conv"
    form.get_submodule(spoilt).scales *= 40  # three levels are left
    rows = {row["layer"]: row["signal_to_noise_db"] for row in layer_errors(form, reference, images)}
    assert min(rows, key=lambda name: rows[name]) == spoilt
    ranking = sensitivities(form, images)
    assert spoilt in [name for name, _ in ranking[:3]]
    with torch.inference_mode():
        expected = reference(images)
        before = relative_error(expected, form(images))
        keep_float(form, spoilt)
        assert relative_error(expected, form(images)) < before


def test_a_tensor_in_float_takes_its_layers_along() -> None:
    images = pictures()
    form = form_of(tiny_network(), images)
    keep_float(form, "quantize_stages_0_1_depthwise_conv")
    off = [name for name, layer in layers(form) if not layer.enabled]
    assert off == ["stages.0.1.depthwise.conv"]  # what reads it is a product, which has no weights
    frozen = copy.deepcopy(form)
    set_mode(form, Mode.SIMULATE)
    freeze(frozen, unsigned=True, integer_bias=True)
    with torch.inference_mode():
        assert relative_error(form(images), frozen(images)) < 0.05


def test_frozen_computes_what_was_simulated() -> None:
    images = pictures()
    for unsigned in (True, False):
        form = form_of(tiny_network(), images)
        set_mode(form, Mode.SIMULATE)
        with torch.inference_mode():
            expected = form(images)
            freeze(form, unsigned=unsigned, integer_bias=False)
            torch.testing.assert_close(form(images), expected, rtol=1e-4, atol=1e-5)
        assert not list(quantizers(form))
        kinds = [str(node.target) for node in form.graph.nodes]
        assert kinds.count("compactnets.quantize.default") > 20


class Wide(nn.Module):
    """Three groups of 72 inputs, which OpenVINO with AMX gets wrong at once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = nn.Conv2d(3, 216, 1), nn.ReLU()
        self.second = nn.Conv2d(216, 54, 1, groups=3)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.second(self.act(self.first(x))))


def test_wide_groups_are_computed_one_at_a_time() -> None:
    images = pictures()
    form = form_of(Wide(), images)
    freeze(form, unsigned=True, integer_bias=False)
    with torch.inference_mode():
        expected = form(images)
        assert separate_groups(form, 72) == 0
        assert separate_groups(form, 64) == 1
        assert isinstance(form.get_submodule("second"), GroupByGroup)
        torch.testing.assert_close(form(images), expected)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *((name, Small if name == "c" else Wide) for name in INT8),  # c: outputs of a layer only
        *(pytest.param(name, tiny_network, marks=pytest.mark.slow) for name in INT8),
    ],
)
def test_runtimes_compute_what_was_simulated(name: str, model: Callable[[], nn.Module], tmp_path: Path) -> None:
    needs(name)
    form, images = FORMATS[name], pictures(1)
    simulation = form_of(model(), pictures(), quantize_output=form.int8_output)
    set_weight_bits(simulation, form.weight_bits)
    set_mode(simulation, Mode.SIMULATE)
    details = form.write_int8(simulation, images, tmp_path)
    with torch.inference_mode():
        expected = simulation(images)  # it was left alone
    found = torch.from_numpy(form.open(tmp_path / form.file)(images.numpy()))
    assert relative_error(expected, found) < 0.05
    if name == "executorch":
        check_delegated(details)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "images")


def test_an_int8_artifact_and_its_report(source: Path, tmp_path: Path) -> None:
    needs("onnx")
    network = Small()
    before = copy.deepcopy(network.state_dict())
    done = quantize(
        network,
        tiny_record(),
        "onnx",
        tmp_path / "int8",
        calibration=str(source),
        evaluation=str(source),
        max_drop=100,
        settings=Settings(calibration_images=10),
        rounds=2,
        size=(32, 32),
    )
    record, report = done.record, done.report
    assert (record.network.preprocess["size"], tiny_record().preprocess["size"]) == (32, SIZE)
    assert report["latency"]["rows"][1]["input"] == [1, 3, 32, 32]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert report == json.loads((tmp_path / "int8" / LAYERS).read_text())
    assert report["calibration"]["images"] == 10
    assert report["evaluation"]["images"] == 30  # none of the ten
    assert 0 < report["evaluation"]["logits_error"] < 0.2
    assert report["bytes"]["int8"] == record.bytes
    assert len(report["latency"]["rows"]) == 2
    assert {row["layer"] for row in report["layers"]} >= {"first", "second", "classifier"}
    assert record.precision == "int8"
    assert record.verification.measure == "rms_difference"
    assert json.loads((tmp_path / "int8" / NAME).read_text())["precision"] == "int8"
    metadata = onnx_format.open_session(tmp_path / "int8" / "model.onnx").get_modelmeta().custom_metadata_map
    assert metadata["compactnets.precision"] == "int8"
    assert json.loads(metadata["compactnets.class_names"]) == record.network.class_names
    loaded = load_artifact(tmp_path / "int8")
    assert loaded(pictures(3)).shape == (3, 5)
    assert loaded(pictures(3)[:0]).shape == (0, 5)


def test_shuffles_stay_in_int8() -> None:
    """The same bits, with every step between a dequantisation and a quantisation, as XNNPACK takes it."""
    images = pictures()
    form = form_of(tiny_network(), images)
    freeze(form, unsigned=False, integer_bias=False)
    shuffles = sum(isinstance(module_of(form, node), ChannelShuffle) for node in form.graph.nodes)
    assert shuffles
    with torch.inference_mode():
        expected = form(images)
        lowered = shuffle_in_int8(form)
        assert torch.equal(lowered(images), expected)
    steps = [node for node in lowered.graph.nodes if node.target in ("unflatten", "flatten", torch.permute_copy)]
    assert len(steps) == 3 * shuffles
    for node in steps:
        assert node.args[0].target is DEQUANTIZE
        assert [user.target for user in node.users] == [QUANTIZE]


@pytest.mark.parametrize(
    "kept", [("first",), *(pytest.param(part, marks=pytest.mark.slow) for part in ((), ("second",)))]
)
def test_onnx_runtime_leaves_in_float_what_is_kept_there(kept: tuple[str, ...], tmp_path: Path) -> None:
    """By itself it would quantise the float weights with one scale, which half of these channels do not survive."""
    needs("onnx")
    network, images = Small().eval(), pictures(40)
    spread = torch.logspace(0, -3, 8)
    with torch.no_grad():
        network.first.weight *= spread.view(-1, 1, 1, 1)
        network.first.bias *= spread
        network.second.weight /= spread.view(-1, 1, 1, 1)
    form = calibrated(network, images, Settings(equalize=False), quantize_output=False)
    simulation = settled(form, kept, images, Settings(rounding=False, correction=False))
    FORMATS["onnx"].write_int8(simulation, images[:1], tmp_path)
    found = torch.from_numpy(FORMATS["onnx"].open(tmp_path / "model.onnx")(images.numpy()))
    with torch.inference_mode():
        expected = network(images)
        assert relative_error(expected, found) < 1.5 * relative_error(expected, simulation(images))


def test_too_large_a_drop_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-100 points cannot be reached, whatever stays in float."""
    needs("onnx")
    monkeypatch.setattr("compactnets.quantization.IN_FLOAT", (3,))
    with pytest.raises(LimitError, match=r"int8 loses .* points of top-1 on 35 images .* with 3 parts in float"):
        quantize(
            Small(),
            tiny_record(),
            "onnx",
            tmp_path / "int8",
            calibration=str(source),
            evaluation=str(source),
            max_drop=-100,
            settings=Settings(calibration_images=5),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_name": "ncnn"}, "int8 is available for onnx, openvino, executorch, litert, c, found --format ncnn"),
        ({"settings": Settings(calibration_images=99)}, "--calibration-images"),
        ({"settings": Settings(calibration_images=5, keep=("stem",))}, "no layer"),
        ({"settings": Settings(keep=("stem",)), "calibration": "nowhere"}, "no layer"),  # before images are looked for
        ({"settings": Settings(calibration_images=5, ranges="max")}, "no method for ranges is called 'max'"),
        ({"calibration": "nowhere"}, "nowhere"),
        ({"size": (32, 40)}, "square images: expected one side, found 32x40"),
        ({"embed": True}, "--embed is for c"),
        ({"mcu": "cortex-m4"}, "--mcu is for c"),
    ],
)
def test_what_cannot_be_quantised_is_one_line(
    change: dict[str, object], message: str, source: Path, tmp_path: Path
) -> None:
    needs("onnx")
    arguments = {
        "format_name": "onnx",
        "calibration": str(source),
        "evaluation": str(source),
        "settings": Settings(calibration_images=5),
        **change,
    }
    name = arguments.pop("format_name")
    with pytest.raises(InputError, match=message) as caught:
        quantize(Small(), tiny_record(), name, tmp_path / "int8", max_drop=1, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize(
    "name", [name if name == "onnx" else pytest.param(name, marks=pytest.mark.slow) for name in INT8]
)
def test_int8_is_called_from_several_threads(name: str, tmp_path: Path) -> None:
    """Each thread gets the logits of its own images, whatever the others ask meanwhile."""
    needs(name)
    images = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    form = calibrated(Small().eval(), images, Settings(), quantize_output=FORMATS[name].int8_output)
    simulation = settled(form, [], images, Settings(rounding=False, correction=False))
    FORMATS[name].write_int8(simulation, images[:1], tmp_path)
    runner = FORMATS[name].open(tmp_path / FORMATS[name].file)
    batches = [each[None].numpy() for each in images]
    expected = [runner(each) for each in batches]
    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(lambda index: runner(batches[index % len(batches)]), range(80))):
            np.testing.assert_array_equal(found, expected[index % len(batches)])


@pytest.mark.parametrize(("bits", "largest"), [(None, 64), (8, 127)])
def test_no_two_products_overflow_sixteen_bits(bits: int | None, largest: int, tmp_path: Path) -> None:
    """x86 without VNNI adds two products of a byte and a weight in 16 bits, which 64 x 255 x 2 fits."""
    onnx = pytest.importorskip("onnx")
    fmt, images = FORMATS["onnx"], pictures()
    settings = Settings(ranges="minmax", weight_bits=bits or fmt.weight_bits)
    form = calibrated(Small().eval(), images, settings, quantize_output=False)
    fmt.write_int8(settled(form, [], images, settings), images[:1], tmp_path)
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(tmp_path / fmt.file).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    assert max(np.abs(each).max() for each in weights if each.size) == largest
    assert FORMATS["openvino"].weight_bits == 7


FOREIGN = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""


@pytest.mark.slow  # half a minute
def test_onnx_is_the_same_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    """ONNX Runtime's kernels for such a CPU, under an emulator: with weights of 8 bits they are far off."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("needs qemu-x86_64, of the package qemu-user")
    needs("onnx")
    images, model = pictures(16), tiny_network()
    np.save(tmp_path / "images.npy", images.numpy())
    errors = []
    for bits in (7, 8):
        settings = Settings(weight_bits=bits)
        simulation = settled(calibrated(model, images, settings, quantize_output=False), [], images, settings)
        FORMATS["onnx"].write_int8(simulation, images[:1], tmp_path)
        with torch.inference_mode():
            expected = simulation(images)
        words = ["-c", FOREIGN, "model.onnx", "images.npy", "logits.npy"]
        subprocess.run([emulator, "-cpu", "Haswell-noTSX", sys.executable, *words], cwd=tmp_path, check=True)
        errors.append(relative_error(expected, torch.from_numpy(np.load(tmp_path / "logits.npy"))))
    assert errors[0] < 0.1
    assert errors[1] > 2 * errors[0]
