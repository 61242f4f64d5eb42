"""WebDataset shards: real layouts, the remembered index, and hostile archives."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from compactnets.data import ImageDataset, open_source, tar_index
from compactnets.data.archives import divide, expand_braces
from compactnets.data.webdataset import WebDatasetSource
from compactnets.errors import InputError

from .helpers import encode, noise

Members = Sequence[tuple[str, bytes]]
GOOD = (("a.png", encode(noise(8, 8))), ("a.cls", b"0"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what the shards hold is remembered."""
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


def write_tar(path: Path, members: Members, tar_format: int = tarfile.PAX_FORMAT) -> Path:
    """Write an archive with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(labels: Sequence[int], first: int = 0, suffix: str = "png") -> list[tuple[str, bytes]]:
    """Return the members of samples whose seed is their number."""
    members = []
    for number, label in enumerate(labels, start=first):
        members += [
            (f"{number:05d}.{suffix}", encode(noise(8, 8, seed=number))),
            (f"{number:05d}.cls", str(label).encode()),
        ]
    return members


def check_seeds(source: WebDatasetSource, seeds: Sequence[int]) -> None:
    for index in np.random.default_rng(0).permutation(len(seeds)):
        assert source.image(index).tobytes() == noise(8, 8, seed=seeds[index]).tobytes()


def opened(spec: object, split: str = "val") -> WebDatasetSource:
    source = open_source(str(spec), split)  # type: ignore[arg-type]
    assert isinstance(source, WebDatasetSource)
    return source


def test_shards_in_a_folder(tmp_path: Path) -> None:
    """As ``webdataset``'s ImageNet example writes them."""
    root = tmp_path / "data"
    write_tar(root / "imagenet-train-000000.tar", samples([0, 1, 2]))
    write_tar(root / "imagenet-train-000001.tar", samples([2, 0], first=3))
    write_tar(root / "imagenet-val-000000.tar", samples([1, 0], first=7))
    train, val = opened(root, "train"), opened(root)
    assert train.labels.tolist() == [0, 1, 2, 2, 0]
    assert train.labels.dtype == np.int64
    assert train.class_names == val.class_names == ("0", "1", "2")  # val has no image of class 2
    check_seeds(train, range(5))
    check_seeds(val, [7, 8])
    assert train.name(4) == "imagenet-train-000001.tar/00004.png"
    assert train.encoded(4) == encode(noise(8, 8, seed=4))
    assert repr(val) == f"WebDatasetSource('{root}', 'val'): 2 images of 3 classes"


def test_a_folder_per_split_with_class_names(tmp_path: Path) -> None:
    """As the sets of ``clip-benchmark`` on the Hub are: numbered without zeros, names above."""
    for number in range(11):
        write_tar(tmp_path / "train" / f"{number}.tar", samples([number % 2], first=number))
    write_tar(tmp_path / "test" / "0.tar", samples([1], first=20))
    (tmp_path / "classnames.txt").write_text("cat\n dog \n\n")
    train = opened(tmp_path, "train")
    assert train.class_names == opened(tmp_path).class_names == ("cat", "dog")
    check_seeds(train, range(11))  # 9.tar comes before 10.tar


def test_info_json_and_labels_in_json(tmp_path: Path) -> None:
    """As ``timm``'s sets are: ``_info.json``, and a ``.json`` beside every image."""
    for split, count in (("train", 2), ("validation", 1)):
        members = []
        for number in range(3):
            record = json.dumps({"filename": "x.JPEG", "label": number, "width": 8}).encode()
            members += [(f"n{number}.json", record), (f"n{number}.PNG", encode(noise(8, 8, seed=number)))]
        for shard in range(count):
            write_tar(tmp_path / f"mini-{split}-{shard:02d}.tar", members)
    info: dict[str, Any] = {"splits": {"train": {"filenames": ["mini-train-00.tar", "mini-train-01.tar"]}}}
    (tmp_path / "_info.json").write_text(json.dumps(info))
    source = opened(tmp_path, "train")
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.name(2) == "mini-train-00.tar/n2.PNG"
    info["class_names"] = {"0": "a", "1": "b", "2": "c"}
    info["splits"]["train"]["filenames"].append("mini-train-02.tar")
    (tmp_path / "_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"1 shards are missing, .*mini-train-02\.tar"):
        open_source(str(tmp_path), "train")
    pattern = tmp_path / "mini-{train-{00..01},validation-00}.tar"
    assert opened(pattern, "train").class_names == opened(pattern).class_names == ("a", "b", "c")


def test_class_names_in_json(tmp_path: Path) -> None:
    """Without a list, the classes are the sorted names of both splits."""

    def member(number: int, label: object) -> Members:
        return [
            (f"{number}.json", json.dumps({"label": label}).encode()),
            (f"{number}.webp", encode(noise(8, 8), "WEBP")),
        ]

    write_tar(tmp_path / "train-0.tar", [*member(0, "dog"), *member(1, "ant"), *member(2, "cat")])
    write_tar(tmp_path / "val-0.tar", member(0, "dog"))
    assert opened(tmp_path, "train").labels.tolist() == [2, 0, 1]
    assert opened(tmp_path).labels.tolist() == [2]
    assert opened(tmp_path).class_names == ("ant", "cat", "dog")
    (tmp_path / "classes.txt").write_text("dog\nant\n")
    assert opened(tmp_path).labels.tolist() == [0]
    with pytest.raises(InputError, match="lacks cat"):
        open_source(str(tmp_path), "train")
    (tmp_path / "classes.txt").unlink()
    write_tar(tmp_path / "val-0.tar", member(0, 1))
    with pytest.raises(InputError, match="class indices .*class names"):
        open_source(str(tmp_path), "val")
    write_tar(tmp_path / "val-0.tar", [*member(0, 1), *member(1, "dog")])
    with pytest.raises(InputError, match=r"0\.webp is labelled 1, others 'dog'"):
        open_source(str(tmp_path), "val")


def test_rules_of_the_format(tmp_path: Path) -> None:
    """Suffixes begin at the first dot of the file name; metadata, other members and macOS's shadows are passed over."""
    image, mask = encode(noise(8, 8, seed=1)), encode(noise(8, 8, "L"))
    members = [
        ("__meta__/info.json", b"{"),
        ("README.md", b"text"),
        ("./a.b/x.seg.png", mask),
        ("./a.b/x.jpeg", encode(noise(8, 8), "JPEG")),
        ("./a.b/x.png", image),
        ("./a.b/x.cls", b" 3\n"),
        ("./a.b/x.txt", b"caption"),
        ("./a.b/._x.png", b"shadow"),
        ("./a.b/._x.cls", b"shadow"),
        ("z.v2.png", image),
        ("z.json", b'{"caption": "no label"}'),
        ("z.class", b"0"),
        ("y.json", b'{"label": [2, 3]}'),  # not looked at: .cls comes first
        ("y.cls", b"1"),
        ("y.webp", encode(noise(8, 8), "WEBP")),
    ]
    write_tar(tmp_path / "val.tar", members)
    source = opened(tmp_path)
    names = ["val.tar/./a.b/x.jpeg", "val.tar/z.v2.png", "val.tar/y.webp"]
    assert [source.name(index) for index in range(3)] == names
    assert source.labels.tolist() == [3, 0, 1]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_and_long_names(tmp_path: Path, tar_format: int) -> None:
    key = "/".join(["long" * 15] * 2 + ["ü" * 30]) if tar_format != tarfile.USTAR_FORMAT else "a" * 90
    write_tar(tmp_path / "val.tar", [(f"{key}.png", encode(noise(8, 8, seed=5))), (f"{key}.cls", b"0")], tar_format)
    source = opened(tmp_path)
    check_seeds(source, [5])
    assert source.name(0) == f"val.tar/{key}.png"


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        write_tar(Path(f"s/x-train-{number:02d}.tar"), samples([0], first=number))
    write_tar(Path("s/x-val-0.tar"), samples([0]))
    check_seeds(opened("s/x-train-{02..04}.tar", "train"), [2, 3, 4])
    check_seeds(opened("s/x-train-{08..11}.tar::s/x-val-0.tar", "train"), [8, 9, 10, 11])
    assert len(opened("s/x-train-{08..11}.tar::s/x-val-0.tar", "val")) == 1
    assert len(opened("s/x-train-*.tar", "train")) == 12
    assert len(opened("s/x-val-0.tar")) == 1
    Path("s/x-val-0.tar").rename("s/x.tar")
    assert len(opened("s/x.tar")) == 1  # no split in its name
    for spec, message in (
        ("s/x-train-{00..20}.tar", "9 of the 21 shards of .* are missing, the first is s/x-train-12"),
        ("s/x-train-{00..99999999999}.tar", "names more than 100,000 shards"),
        ("s/y-*.tar", "no shards match"),
        (f"s/{{{'9' * 5000}..{'9' * 5001}}}.tar", "1 of the 1 shards of|File name too long"),
        ("{a,b}" * 2000 + ".tar", "expected a pattern of at most 50 pairs of braces, found 2000"),
        ("pipe:curl -sL http://example.com/x.tar", "not on this machine: expected a path; download the shards"),
        ("https://example.com/train-{0..9}.tar", "not on this machine"),
        ("s/x.tar", r"no train split: expected train-\*\.tar, found x\.tar; shards without train or val .* evaluation"),
        ("s/x-train-{00..02}.tar.gz", "3 of the 3 shards of"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_source(spec, "train")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{t-{0..1},v-{00,x}}.tar", ["t-0.tar", "t-1.tar", "v-00.tar", "v-x.tar"]),
        ("{a}", ["{a}"]),
        ("a{b", ["a{b"]),
        ("a}b{,c}", ["a}b", "a}bc"]),
        ("{5..3}", []),
        ("", [""]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    """As bash expands them; a falling range is none."""
    assert list(expand_braces(pattern)) == expected


def test_split_words() -> None:
    names = ["a-train-0.tar", "imagenet1k-validation-00.tar", "TRAINING_1.tar", "train/7.tar", "test-of-val.tar"]
    names += ["trainval-0.tar", "contest0.tar"]
    divided = divide(map(Path, names))
    assert {split: [path.as_posix() for path in paths] for split, paths in divided.items()} == {
        "train": ["a-train-0.tar", "TRAINING_1.tar", "train/7.tar"],
        "validation": ["imagenet1k-validation-00.tar"],
        "val": ["test-of-val.tar"],
        "": ["trainval-0.tar", "contest0.tar"],
    }


def test_class_folders_win_over_archives(tmp_path: Path) -> None:
    """ImageNet's published archives may lie beside the unpacked folders."""
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        noise(8, 8).save(tmp_path / split / "cat" / "0.png")
        write_tar(tmp_path / f"ILSVRC2012_img_{split}.tar", GOOD)
    assert open_source(str(tmp_path), "val").kind == "folder"
    (tmp_path / "loose" / "cat").mkdir(parents=True)
    noise(8, 8).save(tmp_path / "loose" / "cat" / "0.png")
    write_tar(tmp_path / "loose" / "cats.tar", GOOD)
    assert open_source(str(tmp_path / "loose"), "val").kind == "folder"


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_and_worker_processes(tmp_path: Path, workers: int) -> None:
    write_tar(tmp_path / "val-0.tar", samples([0, 1] * 4))
    write_tar(tmp_path / "val-1.tar", samples([1, 0] * 4, first=8))
    source = opened(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    check_seeds(copy, range(16))
    assert copy.fingerprint() == source.fingerprint()
    dataset = ImageDataset(source, source.default_preprocess)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=workers))
    assert [label for _, labels in batches for label in labels.tolist()] == [0, 1] * 4 + [1, 0] * 4


def test_what_the_shards_hold_is_remembered(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    shard = write_tar(root / "val-0.tar", samples([0, 1]))
    before = sorted(root.iterdir())
    read = []
    monkeypatch.setattr(
        tar_index, "_read_shard", lambda path, original=tar_index._read_shard: read.append(path) or original(path)
    )
    first = opened(root)
    second = opened(root)
    assert read == [shard]
    assert len(list(cache.iterdir())) == 1
    assert sorted(root.iterdir()) == before
    assert [second.name(0), second.name(1)] == [first.name(0), first.name(1)]
    check_seeds(second, [0, 1])
    (remembered,) = cache.iterdir()
    for damaged in (remembered.read_bytes()[:-40], b"", b"PK\3\4 no archive", pickle.dumps({"a": 1})):
        remembered.write_bytes(damaged)
        check_seeds(opened(root), [0, 1])
    assert len(read) == 5
    write_tar(shard, samples([1, 0, 1]))  # stale
    assert opened(root).labels.tolist() == [1, 0, 1]
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_memory_is_never_believed(tmp_path: Path, cache: Path) -> None:
    """Whatever bit is wrong: what comes back is right, or nothing, and then the shards are read."""
    shard = write_tar(tmp_path / "data" / "val-0.tar", samples([0, 1]))
    right = opened(tmp_path / "data").index
    (remembered,) = cache.iterdir()
    content = remembered.read_bytes()
    stamps = np.array([[shard.stat().st_size, shard.stat().st_mtime_ns]])
    refused = 0
    for place in range(0, len(content), 3):
        remembered.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        index = tar_index._load(remembered, stamps)
        refused += index is None
        if index is not None:
            names = [field.name for field in fields(index)]
            assert all(np.array_equal(getattr(index, name), getattr(right, name)) for name in names)
    assert refused > len(content) / 6


def test_a_cache_that_cannot_be_written_warns(tmp_path: Path) -> None:
    write_tar(tmp_path / "data" / "val-0.tar", samples([0]))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be .* in .*indexes"):
        assert len(opened(tmp_path / "data")) == 1


class Hostile:
    """A pickle that writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_nothing_is_extracted_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    target, pixels = tmp_path / "executed", encode(noise(8, 8, seed=3))
    payload = pickle.dumps(Hostile(target))
    members: list[tuple[str, bytes]] = []
    for name in ("../escaped", f"{tmp_path}/absolute", "link"):
        members += [
            (f"{name}.png", pixels),
            (f"{name}.cls", b"0"),
            (f"{name}.pyd", payload),
            (f"{name}.pickle", payload),
        ]
    write_tar(tmp_path / "data" / "val.tar", members)
    with tarfile.open(tmp_path / "data" / "val.tar", "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "soft.png"), (tarfile.LNKTYPE, "hard.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    source = opened(tmp_path / "data")
    assert len(source) == 3
    check_seeds(source, [3, 3, 3])
    assert source.name(0) == "val.tar/../escaped.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "inside"]
    assert not list(inside.iterdir())
    pickle.loads(payload)
    assert target.exists()  # the member is what it claims to be


BAD_MEMBERS: Mapping[str, tuple[Members, str]] = {
    "no label": ((("a.png", b""),), r"1 of 1 images have no label, .* a; .* \.cls"),
    "json without label": (
        (("a.png", b""), ("a.json", b'{"x": 1}')),
        r"no label, the first is a; .* or \.json with one of label",
    ),
    "no image": ((*GOOD, ("b.cls", b"1")), r"1 labels have no image, .* b; .* \.jpg"),
    "not an integer": ((("a.png", b""), ("a.cls", b"cat")), r"a\.cls must hold a class index .* found 'cat'"),
    "negative": ((("a.png", b""), ("a.cls", b"-1")), r"a\.cls must hold a class index .* found '-1'"),
    "a float": ((("a.png", b""), ("a.cls", b"1.0")), "found '1.0'"),
    "huge": ((("a.png", b""), ("a.cls", b"9" * 5000)), "must hold a class index"),
    "large": ((("a.png", b""), ("a.cls", b" " * (1 << 20) + b"1")), "found '1,048,577 bytes'"),
    "many": ((("a.png", b""), ("a.cls", b"123456789")), "expected class indices below 1,000,000, found 123456789"),
    "not json": ((("a.png", b""), ("a.json", b"{")), r"a\.json is not JSON: '\{'"),
    "deep json": ((("a.png", b""), ("a.json", b"[" * 200_000)), r"a\.json is not JSON"),
    "odd label": ((("a.png", b""), ("a.json", b'{"label": [1]}')), r"label in a\.json must be .* found '\[1\]'"),
    "no number": ((("a.png", b""), ("a.json", b'{"label": true}')), "found 'True'"),
    "a fraction": ((("a.png", b""), ("a.json", b'{"label": 1.5}')), "found '1.5'"),
    "duplicate": ((*GOOD, *GOOD), r"two members of the same sample are called a\.png$"),
    "duplicate label": ((*GOOD, GOOD[1]), r"called a\.cls"),
    "two images": ((("a.left.png", b""), ("a.right.png", b""), GOOD[1]), r"several images \(left\.png, right\.png\)"),
    "nothing": ((), r"val-0\.tar hold no images"),
    "other things": ((("readme.txt", b"text"),), "hold no images"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_members(tmp_path: Path, case: str) -> None:
    members, message = BAD_MEMBERS[case]
    write_tar(tmp_path / "val-0.tar", members)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(tmp_path), "val")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_label_outside_the_list(tmp_path: Path) -> None:
    write_tar(tmp_path / "val-0.tar", samples([0, 2]))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"val-0\.tar/00001\.png: class 2 .*2 class names"):
        open_source(str(tmp_path), "val")
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(InputError, match=r"classes\.txt: .*cat"):
        open_source(str(tmp_path), "val")
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"classes\.txt is not UTF-8 text"):
        open_source(str(tmp_path), "val")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """A copy that ended early never passes for a smaller data set, wherever it ended."""
    shard = write_tar(tmp_path / "val-0.tar", samples([0, 1]))
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:
        end = max(member.offset_data + 512 for member in tar)  # behind the last label; the end marker follows
    for length in [*range(0, end, 512), *range(100, end, 700), end]:
        shard.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"val-0\.tar cannot be read as a tar archive: ") as caught:
            open_source(str(tmp_path), "val")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer, .*git lfs pull"),
        (b"<html>not found</html>" * 50, "cannot be read as a tar archive"),
        (bytes(range(256)) * 8, "cannot be read as a tar archive"),
    ],
)
def test_not_an_archive(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "val-0.tar").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(tmp_path), "val")
    assert "\n" not in str(caught.value)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    """``tarfile`` takes it for the end and says nothing."""
    shard = write_tar(tmp_path / "val-0.tar", samples([0, 1]))
    with tarfile.open(shard) as tar:
        start = tar.getmembers()[2].offset
    content = bytearray(shard.read_bytes())
    content[start + 10] ^= 0xFF
    shard.write_bytes(content)
    with tarfile.open(shard) as tar:
        assert len(tar.getmembers()) == 2
    with pytest.raises(InputError, match=f"byte {start:,}"):
        open_source(str(tmp_path), "val")


def test_joined_archives_are_refused(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "val-0.tar", samples([0]))
    shard.write_bytes(shard.read_bytes() + shard.read_bytes())
    with pytest.raises(InputError, match="joined"):
        open_source(str(tmp_path), "val")


def test_compressed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "val-0.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(InputError, match="compress.*unpack"):
        open_source(str(tmp_path), "val")


def test_sparse(tmp_path: Path) -> None:
    """GNU tar's sparse files are not stored as they are: their bytes in the archive are not the image."""
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0" % 4096 + b"%011o\0" % 0  # one piece: 0 bytes at 4096
    header[483:495] = b"%011o\0" % 4096  # size of the file
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "val-0.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(InputError, match=r"a\.png is stored as a sparse file"):
        open_source(str(tmp_path), "val")


def test_gaps_in_the_numbers(tmp_path: Path) -> None:
    for number in (0, 1, 4):
        write_tar(tmp_path / f"train-{number:04d}.tar", samples([0], first=number))
    with pytest.raises(InputError, match=r"2 shards are missing, .*train-0002\.tar.* pattern"):
        open_source(str(tmp_path), "train")
    assert len(opened(f"{tmp_path}/train-{{0000..0001}}.tar::{tmp_path}/train-0004.tar", "train")) == 3
    for name in ("val-20260101.tar", "val-20261231.tar"):  # dates
        write_tar(tmp_path / name, samples([0]))
    write_tar(tmp_path / "train-0002.tar", samples([0]))
    write_tar(tmp_path / "train-0003.tar", samples([0]))
    assert len(opened(tmp_path)) == 2


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", samples([0]))
    with pytest.raises(InputError, match=r"no val split: expected val-\*\.tar or .*, found train-0\.tar$"):
        open_source(str(tmp_path), "val")


def test_an_unreadable_image_has_its_place(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "val-0.tar", [*GOOD, ("b.png", GOOD[0][1][:60]), ("b.cls", b"0")])
    source = opened(tmp_path)
    with pytest.raises(InputError, match=rf"{shard}/b\.png cannot be read as an image"):
        source.image(1)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard}/a\.png cannot be read: No such file"):
        source.image(0)
