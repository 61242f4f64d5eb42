"""Decoding of JPEG files for training: what differs from Pillow, by how much, and what is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets.data import Augment, Preprocess, jpeg, open_source
from compactnets.data.jpeg import Box, decode_region, read_frame
from compactnets.data.order import Draws
from compactnets.data.presets import IMAGENET
from compactnets.data.transform import TrainTransform
from compactnets.errors import InputError

from .helpers import encode, noise, write_shard
from .listed import ListedSource

SIZE = 48
PHOTO = Preprocess(size=SIZE, resize=56, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both decoders, one after the other."""
    if request.param == "pillow":
        monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    else:
        pytest.importorskip("simplejpeg", reason="the extra `fast` is not installed")
    assert jpeg.decoder() == request.param
    return request.param


def picture(width: int, height: int, mode: str = "RGB", grain: int = 16) -> Image.Image:
    """Return blobs of colour, of ``grain`` pixels, with a little noise: closer to a photograph than noise alone."""
    blobs = noise(-(-width // grain), -(-height // grain), mode).resize((width, height), Image.Resampling.BICUBIC)
    return Image.blend(blobs, noise(width, height, mode, seed=1), 0.1)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def region(data: bytes, box: Box, width: int, height: int, interpolation: str = "bilinear") -> np.ndarray:
    frame = read_frame(data)
    assert frame is not None
    found = decode_region(data, frame, box, width, height, interpolation)
    assert found is not None
    assert found.dtype == torch.uint8
    return found.numpy()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_at_full_scale_the_pixels_are_pillow_s(
    decoder: str, mode: str, options: dict[str, object], subsampling: int
) -> None:
    """The decoder stops below the crop, and the rows above are those of the whole picture."""
    data = encode(picture(101, 77, mode), "JPEG", subsampling=subsampling, **options)
    whole = pixels(data)
    for top, height in ((0, 5), (3, 13), (10, 6), (30, 16), (47, 30), (0, 77)):
        found = region(data, Box(20, top, 40, height), 40, height)
        np.testing.assert_array_equal(found, whole[top : top + height, 20:60])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [Box(0, 0, 150, 130), Box(7, 11, 61, 95), Box(100, 90, 30, 20)])
def test_resized_at_full_scale_within_two_levels(decoder: str, interpolation: str, box: Box) -> None:
    data = encode(picture(150, 130), "JPEG", quality=95)
    crop = Image.fromarray(pixels(data)).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    expected = np.asarray(crop.resize((80, 80), Image.Resampling[interpolation.upper()]))
    difference = np.abs(region(data, box, 80, 80, interpolation).astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.3


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(403, 390), (384, 512)])
def test_reduced_scale(decoder: str, factor: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop at odd places, which no pixel of the smaller picture begins at."""
    data = encode(picture(*size, grain=8 * factor), "JPEG", quality=95)
    side = 43 * factor + 1  # 34 is 43 / 1.25
    box = Box(13, 5, side, side)
    found = region(data, box, 34, 34)
    whole = Image.fromarray(pixels(data))

    def error(left: int) -> float:
        crop = whole.crop((left, 5, left + side, 5 + side)).resize((34, 34), Image.Resampling.BILINEAR)
        return float(np.abs(found.astype(int) - np.asarray(crop)).mean())

    assert 0 < error(13) < 2
    assert error(13) < min(error(13 - factor // 2), error(13 + factor // 2))  # half a pixel to either side
    monkeypatch.setattr(jpeg, "SCALES", ())
    assert not np.array_equal(region(data, box, 34, 34), found)  # the scale was reduced


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_both_decoders_give_the_same_bits(subsampling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run computes does not depend on whether the extra is installed."""
    pytest.importorskip("simplejpeg", reason="the extra `fast` is not installed")
    data = encode(picture(403, 391), "JPEG", subsampling=subsampling)
    boxes = [Box(3, 5, 390, 377), Box(100, 80, 211, 203), Box(9, 9, 101, 99), Box(50, 60, 30, 45), Box(7, 1, 34, 34)]
    first = [region(data, box, 34, 34) for box in boxes]
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    for box, expected in zip(boxes, first, strict=True):
        np.testing.assert_array_equal(region(data, box, 34, 34), expected)


def test_the_scale_leaves_a_margin(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(200, 200), "JPEG")
    crops = [Box(0, 0, 99, 190), Box(3, 3, 150, 99), Box(1, 1, 100, 99)]  # one side below 2 x 1.25 x 40
    found = [region(data, box, 40, 40) for box in crops]
    monkeypatch.setattr(jpeg, "SCALES", ())
    for box, result in zip(crops, found, strict=True):
        np.testing.assert_array_equal(region(data, box, 40, 40), result)


def without_height(data: bytes) -> bytes:
    frame = read_frame(data)
    assert frame is not None
    return data[: frame.place] + b"\0\0" + data[frame.place + 2 :]


JPEG = encode(picture(60, 50), "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        encode(noise(20, 20)),
        JPEG[:-2],
        JPEG[: len(JPEG) // 2],
        JPEG[:30] + b"\xff\xd9",
        encode(picture(60, 50).convert("CMYK"), "JPEG"),
        without_height(JPEG),
        b"\xff\xd8" + b"\xff\xda" + JPEG[2:],
        b"\xff\xd8" + b"\xff\xc3" + JPEG[4:],
    ],
    ids=["empty", "start", "PNG", "no end", "half", "header", "CMYK", "no height", "no frame", "lossless"],
)
def test_what_is_refused(data: bytes) -> None:
    assert read_frame(data) is None
    assert TrainTransform(Augment(crop="resized"), PHOTO).decode(data, Draws.of(0, 0, 0)) is None


def test_header_of_usual_files() -> None:
    frame = read_frame(JPEG)
    assert frame is not None
    assert (frame.width, frame.height) == (60, 50)
    assert struct.unpack_from(">HH", JPEG, frame.place) == (50, 60)
    assert read_frame(JPEG + b"\0" * 20) == frame
    comment = b"\xff\xff\xff\xfe\x00\x06\xff\xc0\xff\xd9"  # padding, and a frame that is only a comment
    longer = read_frame(JPEG[:2] + comment + JPEG[2:])
    assert longer is not None
    assert longer == (frame.place + len(comment), 60, 50, 1)


def test_a_bomb_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 50 - 1)
    assert read_frame(JPEG) is None


def test_broken_bytes_never_raise(decoder: str) -> None:
    """Whatever is broken is refused, or decodes to what Pillow makes of it or to garbage, as in Pillow."""
    rng = np.random.default_rng(0)
    transform = TrainTransform(Augment(crop="resized"), PHOTO)
    refused = 0
    for trial in range(300):
        data = bytearray(encode(picture(120, 100), "JPEG", progressive=bool(trial % 2)))
        last = 200 if trial % 3 else len(data)
        for place in rng.integers(2, last, 4):
            data[place] = rng.integers(256)
        found = transform.decode(bytes(data), Draws.of(0, 0, trial))
        refused += found is None
        assert found is None or found.shape == (SIZE, SIZE, 3)
    assert 0 < refused < 300


@pytest.mark.parametrize(
    "augment",
    [
        Augment(crop="resized", flip=True),
        Augment(crop="pad", pad=0, flip=True),
        Augment(crop="pad", pad=6, rotation=10),
        Augment(crop="none", flip=True, color_jitter=0.2, hue=0.1),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_transform_of_a_file_is_that_of_its_image(decoder: str, augment: Augment, interpolation: str) -> None:
    transform = TrainTransform(augment, Preprocess.from_dict({**PHOTO.to_dict(), "interpolation": interpolation}))
    for index, size in enumerate([(90, 80), (80, 95), (101, 99), (50, 40)] * 3):
        data = encode(picture(*size), "JPEG", subsampling=index % 3)
        draws = Draws.of(0, 0, index)
        found = transform.decode(data, draws)
        assert found is not None
        expected = transform.pixels(Image.open(io.BytesIO(data)), draws)
        difference = (found.int() - expected.int()).abs().float()
        assert difference.mean() < 0.5
        assert difference.max() <= (8 if transform.colours else 3)


@pytest.mark.parametrize("change", [{"mean": [0.5], "std": [0.5]}, {"interpolation": "nearest"}, {"antialias": False}])
def test_other_preprocessing_takes_the_exact_path(change: dict[str, object]) -> None:
    transform = TrainTransform(Augment(crop="resized"), Preprocess.from_dict({**PHOTO.to_dict(), **change}))
    assert transform.decode(JPEG, Draws.of(0, 0, 0)) is None


def test_an_image_of_the_size_is_not_resized() -> None:
    data = encode(picture(SIZE, SIZE), "JPEG")
    plain = Preprocess.from_dict({**PHOTO.to_dict(), "resize": None})
    assert TrainTransform(Augment(crop="pad"), plain).decode(data, Draws.of(0, 0, 0)) is None


def test_sources_give_their_files(tmp_path: Path) -> None:
    path = tmp_path / "images" / "cat" / "a.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(JPEG)
    folder = open_source(str(tmp_path / "images"), "val")
    assert folder.encoded(0) == JPEG
    path.unlink()
    assert folder.encoded(0) is None
    with pytest.raises(InputError, match=r"no image at .*a\.jpg"):
        folder.image(0)
    write_shard(tmp_path / "parquet" / "val.parquet", [0, 1], images=[JPEG, None])
    parquet = open_source(str(tmp_path / "parquet"), "val")
    assert (parquet.encoded(0), parquet.encoded(1)) == (JPEG, None)
    assert open_source("digits", "val").encoded(0) is None
    assert ListedSource([JPEG]).encoded(0) == JPEG


def test_photographs(shared: Path, decoder: str) -> None:
    """Every tenth photograph of the sample: what the package says of the differences holds."""
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    transform = TrainTransform(Augment(crop="resized", flip=True), IMAGENET)
    full, reduced = [], []
    for index in range(0, len(source), 10):
        draws, data = Draws.of(0, 0, index), source.encoded(index)
        assert data is not None
        found, frame = transform.decode(data, draws), read_frame(data)
        assert found is not None
        assert frame is not None
        difference = (found.int() - transform.pixels(source.image(index), draws).int()).abs().float()
        box = transform.area(draws, frame.width, frame.height)
        (reduced if min(box.width, box.height) >= 2.5 * 224 else full).append(difference)
    assert len(full) > 40
    assert max(float(difference.max()) for difference in full) <= 2
    assert np.mean([float(difference.mean()) for difference in full]) < 0.1
    assert all(float(difference.mean()) < 4 for difference in reduced)


@pytest.mark.slow
def test_accuracy_of_the_reference_network(shared: Path) -> None:
    """315 of 500 are right with exact decoding; 0.2 points are one image."""
    import timm

    import compactnets  # noqa: F401  (registers the families with timm)
    from compactnets.data.loading import make_eval_loader
    from compactnets.models.legacy import load_legacy

    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    network = timm.create_model("menet_108_8x1_g3").eval()
    network.load_state_dict(load_legacy(shared / "weights" / "108-MENet-8x1-group-3.pth.tar"))
    correct = {}
    for way in ("exact", "fast"):
        hits = torch.zeros(2)
        with torch.inference_mode():
            for batch in make_eval_loader(source, IMAGENET, batch_size=50, decoding=way):  # type: ignore[arg-type]
                places = network(batch.images).topk(5).indices == batch.labels[:, None]
                hits += torch.stack([places[:, 0].sum(), places.sum()])
        correct[way] = hits.tolist()
    assert correct["exact"] == [315, 415]
    assert abs(correct["fast"][0] - 315) <= 1
