"""Photographs that lie on their side come upright, the same from every reader and every decoder."""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from compactnets.data import Augment, ImageSource, Preprocess, jpeg, make_eval_loader, make_train_loader
from compactnets.data.examination import examine
from compactnets.data.images import FORMATS, decode_image, read_image, read_size
from compactnets.data.jpeg import Box, decode_region, read_frame
from compactnets.data.opening import open_source
from compactnets.data.order import Draws
from compactnets.data.orientation import TURNS, stored_box, turn_boxes, turn_pixels, turned_size, upright_size
from compactnets.data.transform import TrainTransform

from .helpers import encode, noise, write_shard
from .listed import ListedSource

ORIENTATION = 0x0112
ALL = tuple(TURNS)
SMALL = Preprocess(size=24, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
CROP = Preprocess(size=40, resize=48, mean=(0.5,) * 3, std=(0.25,) * 3)


def tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def file(orientation: int, image_format: str = "PNG", size: tuple[int, int] = (30, 18), **options: object) -> bytes:
    return encode(noise(*size), image_format, exif=tag(orientation), **options)


def pillow_s(data: bytes) -> np.ndarray:
    """Decode as Pillow's own function turns it, the independent word on what upright is."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB"))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_every_format_comes_as_pillow_turns_it(image_format: str, orientation: int) -> None:
    if image_format == "AVIF" and "AVIF" not in FORMATS:
        pytest.skip("this Pillow has no AVIF")
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = file(orientation, image_format, **options)
    upright = decode_image(io.BytesIO(data), "a photograph")
    expected = pillow_s(data)
    np.testing.assert_array_equal(pixels(upright), expected)
    assert upright.size == turned_size(30, 18, orientation)
    assert upright.getexif().get(ORIENTATION, 1) == 1  # nobody turns it again
    assert upright.format == ("JPEG" if image_format == "MPO" else image_format) or upright.format == image_format
    with Image.open(io.BytesIO(data)) as opened:
        assert upright_size(opened) == upright.size


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_is_turned(mode: str) -> None:
    if mode == "I;16":
        source = Image.fromarray(np.asarray(noise(6, 4, "L")).astype(np.uint16) * 257)
    else:
        source = noise(6, 4).quantize(16) if mode == "P" else noise(6, 4, mode)
    image_format = "TIFF" if mode == "CMYK" else "PNG"
    plain = decode_image(io.BytesIO(encode(source, image_format)), "plain")
    turned = decode_image(io.BytesIO(encode(source, image_format, exif=tag(6))), "turned")
    assert turned.mode == plain.mode
    assert len(np.unique(pixels(plain))) > 8
    np.testing.assert_array_equal(pixels(turned), np.rot90(pixels(plain), -1))


@pytest.mark.parametrize("value", [0, 9, 255])
def test_a_tag_that_is_no_orientation_changes_nothing(value: int) -> None:
    np.testing.assert_array_equal(pixels(decode_image(io.BytesIO(file(value)), "odd")), pixels(noise(30, 18)))


def test_damaged_tags_are_no_reason_to_refuse_a_photograph() -> None:
    plain = encode(noise(30, 18), "JPEG")
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x09" + bytes(5),
        b"Exif\0\0junk",
    ):
        segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        data = plain[:2] + segment + plain[2:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow says so when it opens the file
            image = decode_image(io.BytesIO(data), "damaged")
        np.testing.assert_array_equal(pixels(image), pixels(Image.open(io.BytesIO(plain))))
        frame = read_frame(data)
        assert frame is not None
        assert frame.orientation == 1


# --- every reader


def in_folder(path: Path, images: list[bytes]) -> ImageSource:
    for number, data in enumerate(images):
        place = path / "train" / f"c{number}" / f"{number}.png"
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
    return open_source(str(path), "train")


def in_flat(path: Path, images: list[bytes]) -> ImageSource:
    (path / "val").mkdir(parents=True)
    for number, data in enumerate(images):
        (path / "val" / f"{number}.png").write_bytes(data)
    (path / "val" / "val.txt").write_text("".join(f"{number}.png {number}\n" for number in range(len(images))))
    return open_source(str(path), "val")


def in_parquet(path: Path, images: list[bytes]) -> ImageSource:
    names = [f"c{number}" for number in range(len(images))]
    write_shard(path / "data" / "train-00000-of-00001.parquet", list(range(len(images))), names, images)
    return open_source(str(path), "train")


def in_webdataset(path: Path, images: list[bytes]) -> ImageSource:
    path.mkdir(parents=True)
    with tarfile.open(path / "photos-train-000000.tar", "w") as archive:
        for number, data in enumerate(images):
            for name, content in ((f"{number}.png", data), (f"{number}.cls", str(number).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return open_source(str(path), "train")


def in_hugging_face(path: Path, images: list[bytes]) -> ImageSource:
    pytest.importorskip("datasets", reason="the extra `hf` is not installed")
    source = in_parquet(path, images)
    source.prepare_for_shuffling()
    return source


def in_memory(path: Path, images: list[bytes]) -> ImageSource:
    return ListedSource(images)


READERS: dict[str, Callable[[Path, list[bytes]], ImageSource]] = {
    reader.__name__: reader for reader in (in_folder, in_flat, in_parquet, in_webdataset, in_hugging_face, in_memory)
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_all_eight_upright(reader: str, tmp_path: Path) -> None:
    images = [file(orientation) for orientation in ALL]
    source = READERS[reader](tmp_path / "photos", images)
    found = {int(source.labels[index]): source.image(index) for index in range(len(source))}
    for label, data in enumerate(images):
        np.testing.assert_array_equal(pixels(found[label]), pillow_s(data))


@pytest.mark.parametrize("size", [(30, 18), (200, 130)], ids=["kept in memory", "decoded as needed"])
def test_evaluation_and_training_see_them_upright(size: tuple[int, int]) -> None:
    """All eight files show one picture, so that the network must see one."""
    picture = noise(*size)
    files = [_lying(picture, orientation) for orientation in ALL]
    source, plain = ListedSource(files), ListedSource([encode(picture)] * len(files))
    for one, other in zip(
        make_eval_loader(source, SMALL, batch_size=8), make_eval_loader(plain, SMALL, batch_size=8), strict=True
    ):
        assert torch.equal(one.images, other.images)
    augment = Augment(crop="none", flip=False)
    batches = [
        next(iter(make_train_loader(each, augment, SMALL, batch_size=8, seed=3).epoch(0))) for each in (source, plain)
    ]
    assert torch.equal(batches[0].images, batches[1].images)


def _lying(picture: Image.Image, orientation: int, image_format: str = "PNG", **options: object) -> bytes:
    """Store a picture so that it is upright once it is turned."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    swap, flip_x, flip_y = TURNS[back]
    stored = np.asarray(picture)
    stored = stored.swapaxes(0, 1) if swap else stored
    stored = stored[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return encode(Image.fromarray(np.ascontiguousarray(stored)), image_format, exif=tag(orientation), **options)


def test_data_check_sees_one_picture() -> None:
    picture = noise(30, 18)
    seen = examine(ListedSource([_lying(picture, orientation) for orientation in ALL]))
    assert (seen.sizes == (30, 18)).all()
    assert len(np.unique(seen.digests, axis=0)) == 1


# --- the quick decoder of training


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pillow":
        monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    else:
        pytest.importorskip("simplejpeg")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("orientation", ALL)
def test_regions_are_those_of_the_upright_picture(orientation: int) -> None:
    data = file(orientation, "JPEG", (150, 101), quality=95)
    whole = pillow_s(data)
    frame = read_frame(data)
    assert frame is not None
    assert frame.size == whole.shape[1::-1]
    for box in (Box(3, 5, 60, 44), Box(0, 0, *frame.size), Box(40, 11, 17, 90)):
        found = decode_region(data, frame, box, box.width, box.height)
        assert found is not None
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        np.testing.assert_array_equal(found.numpy(), whole[rows, columns])


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("crop", ["resized", "none"])
@pytest.mark.parametrize("orientation", ALL)
def test_training_crops_what_is_looked_at(orientation: int, crop: str) -> None:
    """The quick way and the exact one crop the same part: on a smooth picture they differ by little."""
    blobs = noise(6, 4).resize((240, 160), Image.Resampling.BICUBIC)
    data = _lying(blobs, orientation, "JPEG", quality=95)
    transform = TrainTransform(Augment(crop=crop, flip=True), CROP)  # type: ignore[arg-type]
    for index in range(4):
        draws = Draws.of(0, 0, index)
        quick = transform.decode(data, draws)
        assert quick is not None
        exact = transform.pixels(decode_image(io.BytesIO(data), "a photograph"), draws)
        assert np.abs(quick.numpy().astype(int) - exact.numpy()).mean() < 3


# --- boxes


@pytest.mark.parametrize("orientation", ALL)
def test_boxes_move_with_their_pixels(orientation: int) -> None:
    stored = torch.zeros(18, 30, 1, dtype=torch.uint8)
    stored[4:9, 20:23] = 1  # top 4, bottom 9, left 20, right 23
    upright = turn_pixels(stored, orientation)
    height, width = upright.shape[:2]
    left, top, right, bottom = turn_boxes(np.array([[20.0, 4, 23, 9]]), width, height, orientation)[0].astype(int)
    assert upright.sum() == upright[top:bottom, left:right].sum() == (right - left) * (bottom - top) == 15
    box = stored_box(left, top, right - left, bottom - top, (width, height), orientation)
    assert box == (20, 4, 3, 5)


def test_read_image_is_upright(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(file(6, "JPEG"))
    assert read_image(tmp_path / "a.jpg").size == read_size(tmp_path / "a.jpg") == (18, 30)
