"""Detectors as ONNX: what is written finds what PyTorch finds, and what is wrong with a file is said in one line."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from compactnets.deploy.record import NAME, read_artifact
from compactnets.deploy.rewrite import round_to_float16
from compactnets.detection.checkpoint import load_detector
from compactnets.detection.deploy.artifact import DetectorArtifact
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.export import export_detector
from compactnets.detection.deploy.graphs import Part
from compactnets.detection.deploy.pairing import Found, pair
from compactnets.detection.deploy.runtime import load_detector_artifact
from compactnets.detection.deploy.stages import deploy_detector
from compactnets.detection.deploy.suppression import suppress
from compactnets.detection.deploy.verification import TOLERANCE_FLOAT16, _compare_rounded
from compactnets.detection.evaluation import find_objects
from compactnets.detection.objects import Detections
from compactnets.detection.prediction import predict_objects
from compactnets.errors import InputError, LimitError
from compactnets.training.checkpoint import save_checkpoint

from ..lively import SMALLEST, photograph
from .helpers import SIZE, assert_same, detector_of, picture

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WHOLE, FIRST, SECOND = "model.onnx", "proposals.onnx", "subnet.onnx"
FORMS = [  # the command line's test has ssd, boxes
    ("ssd", "raw"),
    ("faster_rcnn", "raw"),
    pytest.param("faster_rcnn", "boxes", marks=pytest.mark.slow),
]

Export = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return the folder of an artifact, which is made once; it must not be changed."""

    @cache
    def make(kind: str, heads: str) -> Path:
        folder = tmp_path_factory.mktemp("artifacts") / f"{kind}-{heads}"
        size = SIZE if kind == "faster_rcnn" else None
        export_detector(*detector_of(kind), folder, heads=heads, size=size)
        return folder

    return make


@pytest.mark.parametrize("model", ["shufflenet_g3_x0_25", SMALLEST])
@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_the_form_computes_the_same_without_batch_normalisation(kind: str, model: str) -> None:
    """timm's network has normalisation with the activation in it."""
    detector, record = detector_of(kind, model)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    form = deploy_detector(detector, record)
    assert not [module for module in form.modules() if isinstance(module, nn.BatchNorm2d)]
    images = torch.stack([picture(64, 64)])
    with torch.inference_mode():
        maps, expected = form.backbone(images), detector.backbone(images)
    if kind == "faster_rcnn":
        maps, expected = {"base": maps}, {"base": expected}
    for name, values in expected.items():
        # of the largest of all maps: rounding of what comes before a map of one cell is not small beside that cell
        assert (maps[name] - values).abs().max() <= 1e-5 * max(one.abs().max() for one in expected.values())
    assert_same(find_objects(form, [photograph()])[0], find_objects(detector, [photograph()])[0], 2e-2)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_suppression_is_torchvisions(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(3, count, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 5 + torch.rand(3, count, 2, generator=generator) * 20], -1)
    scores = torch.rand(3, count, generator=generator)
    labels = torch.arange(3)[:, None].expand(3, count)
    high = scores.flatten() > 0.3
    flat, values = boxes.reshape(-1, 4)[high], scores.flatten()[high]
    expected = batched_nms(flat, values, labels.flatten()[high], 0.4)[:7]
    found = suppress(boxes, scores, 0.4, 0.3, 7)
    assert torch.equal(scores[found[:, 0], found[:, 1]], values[expected])
    assert torch.equal(boxes[found[:, 0], found[:, 1]], flat[expected])


@pytest.mark.parametrize(("kind", "heads"), FORMS)
def test_finds_what_pytorch_finds(exported: Export, kind: str, heads: str) -> None:
    artifact = load_detector_artifact(exported(kind, heads), threads=1)
    # where the ratio of Faster R-CNN's fixed input is the image's, the two ways to scale are one
    for image in (picture(64, 96), picture(128, 192), picture(50, 75)):
        expected = find_objects(detector_of(kind)[0], [image])[0]
        assert_same(artifact.find(image), expected)
        assert_same(find_objects(artifact, [image])[0], expected)


@pytest.mark.parametrize(("kind", "heads"), FORMS)
def test_was_compared_with_many_one_and_no_detections(exported: Export, kind: str, heads: str) -> None:
    record = read_artifact(exported(kind, heads), DetectorArtifact)[0]
    assert record.verification is not None
    many, one, none = record.verification.checks
    assert len(many.detections) == 3
    assert min(many.detections) > 3
    assert (one.detections, none.detections) == ([1], [0])
    assert all(check.relative_difference < 1e-5 and check.rounding == 0 for check in (many, one, none))
    assert (record.verification.heads_difference is None) == (heads == "boxes")
    assert record.cost["macs"] == sum(part["macs"] for part in record.cost["parts"])


@pytest.mark.parametrize(
    ("kind", "heads"),
    [("ssd", "raw"), *(pytest.param("faster_rcnn", heads, marks=pytest.mark.slow) for heads in ("boxes", "raw"))],
)
def test_float16_is_the_detector_with_rounded_weights(exported: Export, kind: str, heads: str, tmp_path: Path) -> None:
    """Half the bytes, float32 in and out; anchors and coordinates, which float16 would round to pixels, as before."""
    detector, record = detector_of(kind)
    plain = exported(kind, heads)
    before = read_artifact(plain, DetectorArtifact)[0]
    size = SIZE if kind == "faster_rcnn" else None
    written = export_detector(detector, record, tmp_path / "a", heads=heads, size=size, precision="float16")
    assert written == read_artifact(tmp_path / "a", DetectorArtifact)[0]
    assert (written.precision, before.precision) == ("float16", "float32")
    assert written.bytes < 0.6 * before.bytes
    assert (written.inputs, written.outputs) == (before.inputs, before.outputs)
    assert written.verification is not None
    assert 1e-5 < (written.verification.float16_difference or 0) < (written.verification.float16_tolerance or 0)
    for name in written.files:
        graphs = [onnx.load(folder / name).graph for folder in (plain, tmp_path / "a")]
        assert list(graphs[0].input) == list(graphs[1].input)
        assert list(graphs[0].output) == list(graphs[1].output)
        old, new = ({one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer} for graph in graphs)
        stored = {name.removesuffix(".float16") for name in new if name.endswith(".float16")}
        assert stored
        for key in old.keys() - stored:  # anchors, vectors, the images' normalisation: nothing that layers multiply by
            assert np.array_equal(old[key], new[key])
            assert old[key].ndim < 3 or old[key].size == 3 or old[key].shape[-1] == 2
    form = deploy_detector(detector, record)
    round_to_float16(form)
    artifact = load_detector_artifact(tmp_path / "a")
    assert_same(artifact.find(picture(64, 96)), find_objects(form, [picture(64, 96)])[0])


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_precision_that_cannot_be_had_is_told_before_the_work(tmp_path: Path, precision: str) -> None:
    with pytest.raises(InputError, match=rf"float16.*{precision}"):
        export_detector(*detector_of("ssd"), tmp_path / "a", precision=precision)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_rounded_weights_past_the_tolerance_are_refused(kind: str) -> None:
    """Also where an output is not a number in one image of several."""
    detector, record = detector_of(kind)
    form, decoding, images = deploy_detector(detector, record), Decoding.of(detector, record), [picture(64, 64)[None]]
    assert _compare_rounded(detector, form, decoding, images, 1e-4) < 1e-4
    round_to_float16(form)
    assert 1e-5 < _compare_rounded(detector, form, decoding, images, TOLERANCE_FLOAT16) < TOLERANCE_FLOAT16
    with pytest.raises(LimitError, match="float16"):
        _compare_rounded(detector, form, decoding, images, 1e-6)
    with pytest.raises(LimitError, match="nan"):
        _compare_rounded(detector, form, decoding, [images[0], images[0] * torch.nan, images[0]], TOLERANCE_FLOAT16)


@pytest.mark.parametrize("shape", [(30, 200), (200, 30)])
def test_nothing_is_found_beside_an_image_that_does_not_fill_the_input(
    exported: Export, shape: tuple[int, int]
) -> None:
    artifact = load_detector_artifact(exported("faster_rcnn", "boxes"))
    pixels, (height, width) = artifact.artifact.input.prepare(picture(*shape))
    assert pixels.shape == (1, 3, *SIZE)
    assert (height, width) == (min(64, int(shape[0] * 96 / shape[1])), min(96, int(shape[1] * 64 / shape[0])))
    found = artifact.find(picture(*shape))
    assert len(found)
    assert (found.boxes[:, 2] <= shape[1]).all()
    assert (found.boxes[:, 3] <= shape[0]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_what_the_files_hold(exported: Export) -> None:
    special = {"NonMaxSuppression", "RoiAlign"}
    assert not operators(exported("ssd", "raw") / WHOLE) & special
    raw = exported("faster_rcnn", "raw")
    assert not (operators(raw / FIRST) | operators(raw / SECOND)) & special
    whole = exported("faster_rcnn", "boxes") / WHOLE
    assert operators(whole) >= special
    assert "BatchNormalization" not in operators(whole)
    outputs = {value.name: value.shape for value in onnxruntime.InferenceSession(whole).get_outputs()}
    assert outputs == {"boxes": ["detections", 4], "labels": ["detections"], "scores": ["detections"]}


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))


@pytest.mark.parametrize("score", [0.2, 0.6, 1.0])
def test_raw_ssd_decoded_by_hand(exported: Export, score: float) -> None:
    """As ``steps`` says, in plain loops: with many, some and no detections."""
    folder, image = exported("ssd", "raw"), picture(64, 64)
    numbers = json.loads((folder / NAME).read_text())["decoding"]
    scores, boxes = onnxruntime.InferenceSession(folder / WHOLE).run(None, {"images": image[None].numpy()})
    found = []
    for label in range(1, scores.shape[1]):
        best = [index for index in np.argsort(-scores[:, label], kind="stable") if scores[index, label] > score]
        kept: list[int] = []
        for index in best[: numbers["candidates"]]:
            if all(overlap(boxes[index], boxes[other]) <= numbers["overlap"] for other in kept):
                kept.append(index)
        found += [(float(scores[index, label]), label - 1, boxes[index]) for index in kept]
    found = sorted(found, key=lambda one: -one[0])[: numbers["detections"]]
    detector = detector_of("ssd")[0]
    own = detector.score_thresh
    try:
        detector.score_thresh = score
        expected = find_objects(detector, [image])[0]
    finally:
        detector.score_thresh = own
    assert len(found) == len(expected)
    assert (len(found) == 0) == (score == 1.0)
    assert [label for _, label, _ in found] == expected.labels.tolist()
    for (value, _, box), right, corners in zip(found, expected.scores.tolist(), expected.boxes.tolist(), strict=True):
        assert value == pytest.approx(right, abs=1e-5)
        assert box.tolist() == pytest.approx(corners, abs=1e-3)


def test_raw_faster_rcnn_decoded_by_hand(exported: Export) -> None:
    """As ``steps`` says, with torchvision's operators and none of the package."""
    folder, image = exported("faster_rcnn", "raw"), picture(*SIZE)
    numbers = json.loads((folder / NAME).read_text())["decoding"]

    def run(name: str, **inputs: Tensor) -> list[Tensor]:
        session = onnxruntime.InferenceSession(folder / name)
        return [torch.from_numpy(one) for one in session.run(None, {key: one.numpy() for key, one in inputs.items()})]

    features, objectness, boxes = run(FIRST, images=image[None])
    best = objectness.argsort(descending=True)[: numbers["proposal_candidates"]]
    best = best[((boxes[best, 2:] - boxes[best, :2]) >= 0.001).all(1)]
    kept = batched_nms(boxes[best], objectness[best], torch.zeros(len(best)), numbers["proposal_overlap"])
    proposals = boxes[best][kept[: numbers["proposals"]]]
    size, scale = numbers["roi_size"], 1 / numbers["stride"]
    regions = roi_align(features, [proposals], size, scale, numbers["sampling_ratio"], aligned=False)
    scores, boxes = run(SECOND, regions=regions, proposals=proposals)
    boxes = clip_boxes_to_image(boxes[:, 1:].reshape(-1, 4), SIZE)
    labels = torch.arange(scores.shape[1] - 1).expand(len(scores), -1).flatten()
    scores = scores[:, 1:].flatten()
    good = (scores > numbers["score"]) & ((boxes[:, 2:] - boxes[:, :2]) >= 0.01).all(1)
    boxes, labels, scores = boxes[good], labels[good], scores[good]
    kept = batched_nms(boxes, scores, labels, numbers["overlap"])[: numbers["detections"]]
    expected = find_objects(detector_of("faster_rcnn")[0], [image])[0]
    assert_same(Detections(boxes[kept], labels[kept], scores[kept]), expected)


def test_wrong_artifacts_are_one_line(exported: Export, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"

    def fresh() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(exported("ssd", "raw"), folder))

    def refuse(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_detector_artifact(folder)
        assert "\n" not in str(caught.value)

    content = bytearray((fresh() / WHOLE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WHOLE).write_bytes(content)
    refuse("sha256 differs")
    (fresh() / WHOLE).unlink()
    refuse("model.onnx is missing")
    (fresh() / NAME).unlink()
    refuse("has no artifact.json")
    (fresh() / NAME).write_text("{")
    refuse("is not valid JSON")
    record = json.loads((fresh() / NAME).read_text())
    (folder / NAME).write_text(json.dumps({**record, "heads": "eyes"}))
    refuse(": heads: ")
    (folder / NAME).write_text(json.dumps({**record, "files": {}}))
    refuse("expected model.onnx")
    (folder / NAME).write_text(json.dumps({"format": "onnx", "network": {}}))
    refuse("record of classification.*detection")


def test_past_the_tolerance_nothing_is_left_and_what_was_there_stays(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_artifact(exported("ssd", "raw"), DetectorArtifact)[0]

    def copied(part: Part, path: Path) -> None:
        """Write what was traced before."""
        assert (part.inputs, part.outputs) == (record.inputs[WHOLE], record.outputs[WHOLE])
        shutil.copy(exported("ssd", "raw") / WHOLE, path)

    monkeypatch.setattr("compactnets.detection.deploy.export.write_onnx", copied)
    folder = Path(shutil.copytree(exported("ssd", "raw"), tmp_path / "artifact"))
    before = (folder / NAME).read_text()
    with pytest.raises(LimitError, match="tolerance of 0"):
        export_detector(*detector_of("ssd"), folder, heads="raw", tolerance=0)
    assert (folder / NAME).read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_wrong_arguments_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "artifact"
    with pytest.raises(InputError, match="made for 64 x 64 pixels: .*found 96 x 64"):
        export_detector(*detector_of("ssd"), folder, size=(96, 64))
    with pytest.raises(InputError, match="at least 32 pixels a side, found 16 x 64"):
        export_detector(*detector_of("faster_rcnn"), folder, size=(16, 64))
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"holds mine.txt, which no export wrote"):
        export_detector(*detector_of("ssd"), tmp_path)

    def absent(self: object) -> dict[str, str]:
        raise InputError("the format onnx needs onnx")

    monkeypatch.setattr("compactnets.deploy.formats.registry.Format.versions", absent)
    with pytest.raises(InputError, match="needs onnx"):
        export_detector(*detector_of("ssd"), folder)
    assert not folder.exists()


DECODING = Decoding(score=0.2, overlap=0.5, detections=3)
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])


def both(one: Found, other: Found) -> Found:
    return Found(
        torch.cat([one.boxes, other.boxes]),
        torch.cat([one.labels, other.labels]),
        torch.cat([one.scores, other.scores]),
    )


def rounded(expected: Found, found: Found, candidates: Found | None = None) -> int:
    return pair(expected, found, candidates or both(expected, found), DECODING, 100, 1e-4).rounding


def found(scores: list[float], boxes: Tensor = BOXES, labels: list[int] | None = None) -> Found:
    count = len(scores)
    return Found(boxes[:count], torch.tensor(labels or [0] * count), torch.tensor(scores))


def test_pairing_takes_what_rounding_explains_and_nothing_else() -> None:
    two = found([0.8, 0.5])
    swapped = found([0.8, 0.8 - 1e-6], BOXES.flip(0))
    assert rounded(found([0.8, 0.8]), swapped) == 0
    assert rounded(found([]), found([])) == 0
    assert rounded(found([0.8, 0.20001]), found([0.8])) == 1  # at the threshold
    near = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5.0]])  # an overlap of 0.5
    assert rounded(found([0.8, 0.5], near), found([0.8], near)) == 1
    same = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.0]])  # which of the two is first
    assert rounded(found([0.8], same), found([0.8], same[1:])) == 2
    for wrong in (found([0.8]), found([0.8, 0.4]), found([0.8, 0.5], BOXES + 1), found([0.8, 0.5], labels=[0, 1])):
        with pytest.raises(LimitError, match="has no partner within the tolerance"):
            rounded(two, wrong, two)
    with pytest.raises(LimitError, match="has no partner"):  # a box that PyTorch has not even before suppression
        rounded(found([0.8], same), found([0.8], same[1:]), found([0.8], same))
    with pytest.raises(LimitError, match="not finite"):
        rounded(two, found([0.8, float("nan")]))


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["boxes", "raw"])
def test_faster_rcnn_of_any_size(tmp_path: Path, heads: str) -> None:
    """Images of other ratios than those that were compared, scaled as torchvision scales them."""
    detector, record = detector_of("faster_rcnn", "shufflenet_g3_x0_25")
    assert export_detector(detector, record, tmp_path / "a", heads=heads).input.size is None
    artifact = load_detector_artifact(tmp_path / "a")
    for image in (picture(200, 150), picture(64, 64), picture(40, 200), picture(427, 640)):
        assert_same(artifact.find(image), find_objects(detector, [image])[0], 1e-2)


@pytest.mark.parametrize(("kind", "heads"), [("ssd", "raw"), ("faster_rcnn", "raw")])
def test_every_file_says_by_itself_what_it_is(exported: Export, kind: str, heads: str) -> None:
    folder = exported(kind, heads)
    artifact = json.loads((folder / NAME).read_text())
    for name in artifact["files"]:
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        found = {key.removeprefix("compactnets."): value for key, value in metadata.items()}
        assert (found["task"], found["detector"], found["network"]) == ("detection", kind, artifact["network"]["model"])
        for key, value in (
            ("class_names", artifact["network"]["class_names"]),
            ("preprocess", artifact["input"]),
            ("inputs", artifact["inputs"][name]),
            ("outputs", artifact["outputs"][name]),
            ("decoding", artifact["decoding"]),
        ):
            assert json.loads(found[key]) == value


@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_a_record_names_as_many_classes_as_the_detector_has_outputs(
    exported: Export, tmp_path: Path, kind: str
) -> None:
    """At export, and where the record of an artifact or a checkpoint was changed afterwards."""
    detector, record = detector_of(kind)
    short = record.model_copy(update={"class_names": ["a"]})
    with pytest.raises(InputError, match="names 1 classes in class_names, .* outputs for 3"):
        export_detector(detector, short, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    folder = Path(shutil.copytree(exported(kind, "raw"), tmp_path / "a"))
    written = json.loads((folder / NAME).read_text())
    written["network"]["class_names"] = ["a"]
    (folder / NAME).write_text(json.dumps(written))
    with pytest.raises(InputError, match="names 1 classes in class_names, .* outputs for 3"):
        load_detector_artifact(folder)
    save_checkpoint(tmp_path / "c.safetensors", detector.state_dict(), short)
    with pytest.raises(InputError, match=r"c\.safetensors") as caught:
        load_detector(tmp_path / "c.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_numbers_that_are_not_finite_are_no_detections(exported: Export, tmp_path: Path, kind: str) -> None:
    detector, record = detector_of(kind)
    broken = copy.deepcopy(detector)
    for parameter in (broken.head if kind == "ssd" else broken.roi_heads).parameters():
        parameter.data.fill_(float("nan"))
    Image.new("RGB", (90, 60), "red").save(tmp_path / "p.png")
    with pytest.raises(InputError, match="p.png.*not finite"):
        list(predict_objects(broken, record, [tmp_path / "p.png"], None))
    with pytest.raises(InputError, match="not finite"):
        export_detector(broken, record, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    artifact = load_detector_artifact(exported(kind, "raw"))
    with pytest.raises(InputError, match="not finite"):
        artifact([torch.full((3, 60, 90), float("nan"))])


@pytest.mark.parametrize(
    ("kind", "heads"), [("ssd", "boxes"), pytest.param("faster_rcnn", "raw", marks=pytest.mark.slow)]
)
def test_called_from_several_threads(exported: Export, kind: str, heads: str) -> None:
    """Each thread gets the objects of its own image, whatever the others ask meanwhile."""
    detector = load_detector_artifact(exported(kind, heads))
    pictures = [picture(96 + 16 * number, 128) for number in range(4)]
    with torch.inference_mode():
        expected = [detector.find(each) for each in pictures]

    def call(index: int) -> Detections:
        with torch.inference_mode():
            return detector.find(pictures[index % len(pictures)])

    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(call, range(24))):
            assert_same(found, expected[index % len(pictures)])
