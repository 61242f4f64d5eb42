"""What makes two data sets the same: their files or pixels, not their place, their times or who copied them."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compactnets.data import content, open_source
from compactnets.data.content import digest_files
from compactnets.detection.data import open_detection

from ..detection.data.helpers import coco_document, write_coco_file, write_tree
from .helpers import encode, noise, write_shard
from .listed import ListedSource, noisy

LAYOUTS = ("folder", "flat", "parquet", "webdataset", "voc", "coco")


def write(layout: str, root: Path, seeds: tuple[int, ...] = (0, 1)) -> Callable[[], str]:
    """Write images that the seeds choose, of one size in bytes; return what opens them and gives their digest."""
    images = [noise(8, 8, seed=seed) for seed in seeds]
    if layout in ("voc", "coco"):
        if layout == "voc":
            folder = write_tree(root, {"val": {"0": [("cat", 1, 1, 5, 5)], "1": []}}) / "JPEGImages"
        else:
            folder = root / "val"
            write_coco_file(root / "annotations" / "val.json", coco_document(), folder)
        for path, image in zip(sorted(folder.glob("*.png")), images, strict=False):
            image.save(path)
        return lambda: open_detection(str(root), "val").content()
    blobs = [encode(image, "BMP") for image in images]
    if layout == "folder":
        for name, blob in zip("ab", blobs, strict=True):
            (root / "val" / name).mkdir(parents=True)
            (root / "val" / name / "0.bmp").write_bytes(blob)
    elif layout == "flat":
        (root / "val").mkdir(parents=True)
        for number, blob in enumerate(blobs):
            (root / "val" / f"{number}.bmp").write_bytes(blob)
        (root / "val.txt").write_text("0.bmp a\n1.bmp b\n")
    elif layout == "parquet":
        write_shard(root / "val.parquet", [0, 1], images=blobs)
    else:
        root.mkdir()
        with tarfile.open(root / "val-0.tar", "w") as tar:
            for number, blob in enumerate(blobs):
                for name, data in ((f"{number}.bmp", blob), (f"{number}.cls", b"%d" % number)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return lambda: open_source(str(root), "val").content()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_images_of_the_same_labels_differ(layout: str, tmp_path: Path) -> None:
    here = write(layout, tmp_path / "here")
    found = {here(), write(layout, tmp_path / "other", (2, 3))(), write(layout, tmp_path / "swapped", (1, 0))()}
    assert len(found) == 3
    assert here() == write(layout, tmp_path / "again")()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_and_a_touch_change_nothing(layout: str, tmp_path: Path) -> None:
    here = write(layout, tmp_path / "here")
    before = here()
    for path in (tmp_path / "here").rglob("*"):
        os.utime(path, (1, 1))
    assert here() == before
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    (tmp_path / "there").rename(tmp_path / "here")
    assert here() == before


def test_names_count_in_one_form_of_unicode(tmp_path: Path) -> None:
    for name in ("caf\u00e9.png", "cafe\u0301.png"):
        (tmp_path / name).write_bytes(b"the same")
    one, other = (digest_files([name], [tmp_path / name]) for name in ("caf\u00e9.png", "cafe\u0301.png"))
    assert one == other != digest_files(["tea.png"], [tmp_path / "caf\u00e9.png"])


def test_sources_without_files() -> None:
    train, val = open_source("digits", "train"), open_source("digits", "val")
    assert train.content() == open_source("digits", "train").content() != val.content()
    assert noisy(5).content() == noisy(5).content() != noisy(5, width=13).content()
    files = [encode(noise(8, 8, seed=seed)) for seed in range(3)]
    assert ListedSource(files).content() != ListedSource(files[::-1]).content()


def test_what_cannot_be_read_is_no_error_here(tmp_path: Path) -> None:
    assert noisy(3, broken=[0]).content() != noisy(3).content()
    (tmp_path / "0.png").write_bytes(b"")
    names = ["0.png", "gone.png"]
    digest = digest_files(names, [tmp_path / name for name in names])
    (tmp_path / "gone.png").write_bytes(b"")
    assert digest_files(names, [tmp_path / name for name in names]) != digest


@pytest.mark.parametrize("sizes", [[1] * 3000, [200_000], [70_000, 1, 90_000], [0, 0, 150_000, 0]])
def test_of_much_data_places_are_read_all_over(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "WHOLE", 1000)
    monkeypatch.setattr(content, "PLACES", 50)
    monkeypatch.setattr(content, "BLOCK", 512)
    generator = np.random.default_rng(0)
    paths = [tmp_path / str(number) for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(generator.bytes(size))
    names = [path.name for path in paths]
    before = digest_files(names, paths)
    assert before == digest_files(names, paths)
    for path in (paths[0], paths[-1]):  # sizes stay
        if size := path.stat().st_size:
            kept = path.read_bytes()
            path.write_bytes(generator.bytes(size))
            assert digest_files(names, paths) != before
            path.write_bytes(kept)
    paths[len(paths) // 2].write_bytes(b"of another size")  # whichever file it is
    assert digest_files(names, paths) != before


def test_huggingface_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from compactnets.data.huggingface import HuggingFaceSource

    def rows(seed: int) -> Iterator[dict[str, object]]:
        yield {"image": {"bytes": encode(noise(8, 8, seed=seed)), "path": None}}

    def source(seed: int, folder: str) -> HuggingFaceSource:
        features = datasets.Features({"image": datasets.Image(decode=False)})
        table = datasets.Dataset.from_generator(
            rows, gen_kwargs={"seed": seed}, features=features, cache_dir=str(tmp_path / folder)
        )
        made = HuggingFaceSource.__new__(HuggingFaceSource)
        made.dataset, made.image_column, made.split_name = table, "image", "train"
        super(HuggingFaceSource, made).__init__("hf:a/b", "train", ["a"], np.array([0]))
        return made

    assert source(0, "a").content() == source(0, "b").content() != source(1, "c").content()


def test_cifar_is_its_pixels(tmp_path: Path) -> None:
    from compactnets.data.cifar import CifarSource

    def source(seed: int) -> CifarSource:
        made = CifarSource.__new__(CifarSource)
        made.images = np.stack([np.asarray(noise(32, 32, seed=seed))])
        return made

    assert source(0).content() == source(0).content() != source(1).content()
    assert Image.fromarray(source(0).images[0]).size == (32, 32)
