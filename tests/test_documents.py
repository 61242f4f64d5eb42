"""Every code block of README, CONTRIBUTING, examples and docs: parsed, and run on stand-in data wherever it can be.

A page is one folder and one namespace: its blocks run from top to bottom, and later ones use what earlier ones made.
Files that a page speaks of and no block before makes (``photos/``, ``photo.jpg``, ``runs/photos/best.safetensors``)
are stand-ins. What takes more than a second or two is left to ``-m slow``, which trains, exports and quantises as the
pages say, with cheaper settings.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import compactnets
from compactnets import api
from compactnets_cli import app

from .cli.conftest import run
from .cli.helpers import Outcome
from .detection.helpers import COLOURS, FASTER_RCNN, SSD, TINY, write_scenes
from .segmentation.scenes import NAMES, write_folders

__all__ = ["run"]

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
LANGUAGES = ("sh", "python", "text", "yaml", "toml", "")  # the last three and text are shown, not run

# what is parsed and not run: a regular expression of the line -> why
NOT_RUN = {
    r"^python -m pip install": "installs from a package index; continuous integration runs the README's two lines",
    r"^pytest|^ruff|^mypy|^\.ci/run": "is what runs this test, or what continuous integration runs beside it",
    r"^git |^python -m venv|^source ": "sets a checkout up",
    r"^python (environments|benchmarks)/": "makes environments, or measures for minutes",
    r"^python -m pip wheel": "builds the package; tests/test_packaging.py does",
    r"^cd .* && cc ": "compiles for this machine; tests/deploy/planar compiles and runs the same files",
    r"^(cc|ffmpeg) |classify\.py|http\.server": "runs an example; tests/examples and tests/web/test_own_page.py do",
    r"^torchrun": "needs several GPUs or machines; tests/training/test_distributed.py runs two processes",
    r"^compactnets web (?!.*--no-serve)": "serves until Ctrl-C; tests/web runs it in a browser",
    r"^compactnets web": "needs the built page; tests/web builds it",
    r"^compactnets (push|pull)|flowers-model": "needs the Hub; tests/hub runs it against a stand-in",
    r"^compactnets quickstart": "trains for two minutes; tests/test_quickstart.py does",
    r"^compactnets search": "measures and trains for an hour; tests/search searches a toy space",
    r"^compactnets convert|authors_in1k\.safetensors": "needs a file of theirs; tests/models/test_legacy.py has one",
    r"^compactnets papers ablation": "trains for hours; tests/papers/test_ablation.py runs a small one",
    r"^compactnets papers report .*--run": "needs finished runs; tests/report makes some",
    r"pretrained=true": "downloads weights of timm",
    r"RECIPE|…": "is a synopsis",
}
PATH = r"`((?:src|tests|docs|benchmarks|environments|web|\.ci|\.github)/[\w./-]+)`"  # of this repository
# generated: commands of days of work, which are parsed; of the zoo, those that train; the examples of the help texts
RECORDS = {"docs/results.md": "", "docs/zoo.md": "compactnets train ", "docs/commands.md": ""}
# verbs that take seconds, or run the whole of something
SLOW = re.compile(r"^compactnets (train|export|quantize|benchmark|papers|list|profile .*(--recipe|--detector))")
SLOW_CALLS = {"train", "export", "benchmark"}
NOT_CALLED = "compactnets.quantize("  # needs a trained network; tests/deploy/int8/test_quantization.py calls it

CLASSES = ("cat", "dog")  # known to the weights that come with the package
IMAGE_FOLDERS = ("photos", "flowers", "imagenet")  # with train/ and val/
UNDIVIDED = ("collected",)  # class folders alone
BOX_FOLDERS = ("bccd", "cells", "boxes")  # Pascal VOC with train, val and test
BOXES_UNDIVIDED = ("labelled",)
MASK_FOLDERS = ("street",)
CLASSIFIER, MENET, SEARCH, DETECTOR = "muffnet_x0_5", "menet_108_8x1_g3", "search", "detector"
SEGMENTER, TAGGER = "segmenter", "tagger"
CHECKPOINTS = {
    "runs/photos/best.safetensors": CLASSIFIER,
    "runs/flowers/best.safetensors": CLASSIFIER,
    "runs/float/best.safetensors": CLASSIFIER,
    "best.safetensors": CLASSIFIER,
    "found.safetensors": CLASSIFIER,
    "menet.safetensors": MENET,
    "runs/search/last.safetensors": SEARCH,
    "runs/cells/best.safetensors": DETECTOR,
    "runs/street/best.safetensors": SEGMENTER,
    "runs/tags/best.safetensors": TAGGER,
}
CHEAP = ("workers=0", "compile=false", "precision=float32")
# enough steps for the statistics of batch normalisation to settle: before, rounding is amplified without bound
CHEAP_IMAGES = (*CHEAP, "epochs=12", "batch_size=8", "eval_epochs=6", "preprocess.size=32", "preprocess.resize=32")
CHEAP_BOXES = (*CHEAP, "epochs=1", "min_steps=1", "batch_size=2", "eval_epochs=1", "schedule.warmup_epochs=0")
CHEAP_MASKS = (*CHEAP, "epochs=1", "batch_size=2", "size=[64,96]", "augment.crop=[64,96]", "schedule.warmup_epochs=0")


@dataclass(frozen=True)
class Block:
    """A code block, and the number of its first line."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, without comments and with continued ones joined."""
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [line for line in lines if line]


def blocks_of(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(page, text[: each.start()].count("\n") + 2, each[2], textwrap.dedent(each[3])) for each in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [(block, command) for block in BLOCKS if block.language == "sh" for command in block.commands]


def why_not(page: str, command: str) -> str | None:
    """Why a line is parsed only; ``None`` for those that are run."""
    if page in RECORDS and command.startswith(RECORDS[page]):
        return "is the command of a record"
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


def test_there_are_blocks_and_all_are_of_a_known_kind() -> None:
    assert len(PYTHON) >= 12
    assert len(SHELL) >= 80
    assert {block.language for block in BLOCKS} <= set(LANGUAGES)


def test_every_reason_is_needed() -> None:
    used = {why_not(block.page, command) for block, command in SHELL}
    assert set(NOT_RUN.values()) <= used


# ---------------------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize("page", sorted({block.page for block, _ in SHELL}))
def test_every_command_is_taken_by_the_command_line(page: str) -> None:
    for block, command in SHELL:
        if block.page == page:
            for part in command.split(" && "):
                parse(part, f"{page}:{block.line}: {command}")


def parse(command: str, where: str) -> None:
    """Have the real command line read the words of a command, with all that a synopsis says may be there."""
    marks = "…" if "'" in command else "[]…"  # what is in quotes is meant as it stands
    words = shlex.split(command.translate(dict.fromkeys(map(ord, marks), " ")))
    if words[0] == "torchrun":
        words = ["compactnets", *words[words.index("compactnets") + 1 :]]
    if words[0] != "compactnets":
        check_program(words, where)
        return
    verb, words = command_line(), words[1:]
    while hasattr(verb, "commands"):
        assert words[0] in verb.commands, where
        verb, words = verb.commands[words[0]], words[1:]
    try:
        verb.make_context(verb.name, list(words))
    except Exception as error:  # click's, or typer's own copy of it
        raise AssertionError(f"{where}: {error}") from error


@functools.cache
def command_line() -> Any:
    return typer.main.get_command(app)


def check_program(words: list[str], where: str) -> None:
    """Whether a line names a program that this repository speaks of, and files and extras that are there."""
    known = ("python", "pytest", "ruff", "mypy", "git", "source", ".ci/run", "cd", "cc", "./example", "ffmpeg")
    assert words[0] in known, where
    if words[0] == "python" and words[1].endswith(".py"):  # of the repository, or an example that was copied
        assert (ROOT / words[1]).is_file() or any((ROOT / "examples").rglob(words[1])), where
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)) if "pip" in words else ():
        assert all(f"\n{name} = [" in extras for name in extra.split(",")), where


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_every_call_of_the_package_fits_its_signature(block: Block) -> None:
    for call in ast.walk(ast.parse(block.text)):
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("compactnets."):
            function = getattr(compactnets, ast.unparse(call.func).removeprefix("compactnets."))
            names = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            inspect.signature(function).bind(*([None] * len(call.args)), **names)


def test_paths_of_the_repository_are_there() -> None:
    """What a page names in backticks as a path of this repository."""
    for page, path in PAGES.items():
        for name in re.findall(PATH, path.read_text(encoding="utf-8")):
            assert "NAME" in name or (ROOT / name).exists(), f"{page}: {name}"


# ---------------------------------------------------------------------------------------------------- stand-ins


def photograph(path: Path, seed: int, side: int = 48, tint: int = 0) -> None:
    """Write blurred noise; of one colour in each of two classes, which a network can learn in a few steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 160, (6, 8, 3), dtype=np.uint8)
    noise[..., tint] += 80
    coarse = Image.fromarray(noise)
    coarse.resize((side + 16, side), Image.Resampling.BICUBIC).save(path)


def image_folder(folder: Path, splits: Mapping[str, int] = MappingProxyType({"train": 8, "val": 4})) -> None:
    for number, name in enumerate(CLASSES):
        for split, count in splits.items():
            for index in range(count):
                photograph(
                    folder / split / name / f"{index}.jpg", 1000 * number + 10 * index + len(split), tint=2 * number
                )


def save(path: Path, kind: str) -> None:
    """Write a checkpoint with fresh weights."""
    from compactnets.classification.checkpoint import CheckpointRecord
    from compactnets.data import Preprocess
    from compactnets.training.checkpoint import save_checkpoint

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if kind == DETECTOR:
        from compactnets.detection.checkpoint import build_detector
        from compactnets.detection.cost import planned_record

        record = planned_record(TINY, "ssd", None, 2, as_settings("ssd")).model_copy(
            update={"class_names": list(COLOURS)}
        )
        detector = build_detector(record, compactnets.create_model(TINY, **record.arguments))
        save_checkpoint(path, detector.state_dict(), record)
        return
    if kind == SEGMENTER:
        from compactnets.segmentation.checkpoint import build
        from compactnets.segmentation.cost import planned_record as planned

        chosen = planned(CLASSIFIER, None, "small/lraspp", settings=["size=[64,96]", f"classes={json.dumps(NAMES)}"])
        save_checkpoint(path, build(chosen).state_dict(), chosen)
        return
    model = CLASSIFIER if kind in (SEARCH, TAGGER) else kind
    arguments: dict[str, Any] = {"num_classes": 2, "in_chans": 3, "stem": "imagenet"}
    if kind == SEARCH:
        arguments |= {"stem": "cifar", "sharing": "learned"}
    from compactnets.multilabel.checkpoint import MultilabelRecord

    record = (MultilabelRecord if kind == TAGGER else CheckpointRecord)(
        model=model,
        arguments=arguments,
        class_names=list(CLASSES),
        preprocess=Preprocess(size=32, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3).to_dict(),
        source="a test",
        license="none needed",
    )
    save_checkpoint(path, compactnets.create_model(model, **arguments).state_dict(), record)


def prepare(folder: Path, blocks: list[Block], made: list[str]) -> None:
    """Put the files there that the blocks of a page speak of, but for those that they make themselves."""
    text = "\n".join(block.text for block in blocks)
    if "photo.jpg" in text:
        photograph(folder / "photo.jpg", 7)
    if re.search(r"\bnew/", text):
        photograph(folder / "new/one.jpg", 8)
        photograph(folder / "new/deeper/two.jpg", 9)
    if "my_network.pth" in text:
        torch.save({"state_dict": compactnets.create_model(MENET).state_dict()}, folder / "my_network.pth")
    for name in IMAGE_FOLDERS:
        if re.search(rf"(?<![\w/]){name}/", text) and name not in made:
            image_folder(folder / name)
    if re.search(r"\bcifar10\b(?!\.)", text) and "--data" in text:
        image_folder(folder / "images")
    if "tags.csv" in text:
        for number in range(12):
            photograph(folder / f"tags/{number}.jpg", number)
        cells = ("", CLASSES[0], CLASSES[1], ";".join(CLASSES))
        lines = (f"tags/{number}.jpg,{cells[number % 4]},{'val' if number > 7 else 'train'}\n" for number in range(12))
        (folder / "tags.csv").write_text("image,labels,split\n" + "".join(lines))
    for name in UNDIVIDED:
        if re.search(rf"(?<![\w/]){name}/", text):
            image_folder(folder / name, splits={"": 10})
    for name in BOX_FOLDERS:
        if re.search(rf"(?<![\w/]){name}\b", text):
            write_scenes(folder / name, train=4, val=2, test=2)
    for name in MASK_FOLDERS:
        if re.search(rf"(?<![\w/]){name}/", text):
            write_folders(folder / name)
    for name in BOXES_UNDIVIDED:
        if re.search(rf"(?<![\w/]){name}\b", text):
            shutil.rmtree(write_scenes(folder / name, any=6) / "ImageSets")
    for name, kind in CHECKPOINTS.items():
        if re.search(rf"(?<![\w/]){re.escape(name)}", text) and not any(
            name == each or name.startswith(f"{each}/") for each in made
        ):
            save(folder / name, kind)


# what the blocks of a page use without making it
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {}


def given(page: str) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    return lambda make: GIVEN.setdefault(page, make)


@given("docs/detection.md")
def _detection() -> dict[str, Any]:
    from .detection.scenes import detections, objects

    found, there = detections([[4, 4, 20, 20]], [0.9]), objects([[5, 5, 21, 21]])
    image = Image.new("RGB", (48, 48))
    values = {"image": image, "pixels": torch.zeros(3, 48, 48), "detections": found, "objects": there}
    return {**values, "class_names": ["cell"], "results": [(found, there)]}


# ---------------------------------------------------------------------------------------------------- running


def is_slow(block: Block, command: str = "") -> bool:
    """Whether a line, or a block of Python, is left to ``-m slow``."""
    if command:
        return bool(SLOW.search(command)) or needs_what_slow_makes(command)
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)}
    return bool(calls & {f"compactnets.{name}" for name in SLOW_CALLS}) or needs_what_slow_makes(block.text)


def needs_what_slow_makes(text: str) -> bool:
    return bool(re.search(r"deploy/|(?<![\w/])models/|runs/(int8|mine|found|scenes|tagged)/", text))


def steps(page: str, slow: bool) -> Iterator[tuple[Block, str]]:
    """The blocks of Python and the lines of the shell that are run, in their order; ``""`` stands for Python."""
    for block in blocks_of(page):
        if block.language == "python" and NOT_CALLED not in block.text and (slow or not is_slow(block)):
            yield block, ""
        if block.language == "sh":
            for command in block.commands:
                if why_not(page, command) is None and (slow or not is_slow(block, command)):
                    yield block, command


def cheaper(command: str) -> list[str]:
    """Return the words of a command with what a synopsis leaves open left out, and with settings that take seconds."""
    if "--set" not in command:
        command = re.sub(r"\s\[[^\]]*\]", "", command)
    words = shlex.split(command)[1:]
    words = [re.sub(r"^cifar10$", "images", word) for word in words]
    if words[0] == "train":
        masks = words[1].endswith("/lraspp")
        boxes = not masks and words[1].startswith(("small/", "voc/", "coco/"))
        detector = "ssd" if "ssd" in words[1] else "faster_rcnn"
        changes = (*CHEAP_BOXES, *as_settings(detector)) if boxes else CHEAP_MASKS if masks else CHEAP_IMAGES
        words = [
            *without(words, {change.partition("=")[0] for change in changes}),
            *(w for c in changes for w in ("--set", c)),
        ]
    if words[0] == "quantize":
        # of a network that was trained for seconds int8 is not kept: what comes after runs on the float file
        words = [
            "export",
            words[1],
            *(w for o in ("--format", "--output") for w in words[words.index(o) : words.index(o) + 2]),
        ]
    if words[0] == "export":
        words = replaced(words, "--tolerance", "0.01")  # it amplifies roundings, too
    if words[0] == "benchmark":
        words = [*replaced(words, "--formats", "eager,onnx"), "--rounds", "1", "--calls", "1", "--size", "32"]
    return words


def as_settings(detector: str) -> list[str]:
    """Return the settings of a small detector as ``--set`` takes them."""
    own = {"ssd": SSD, "faster_rcnn": FASTER_RCNN}[detector]
    return [f"{detector}.{key}={json.dumps(value)}" for key, value in own.items()]


def without(words: list[str], keys: set[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] == "--set" and word.partition("=")[0] in keys:
            kept.pop()
        else:
            kept.append(word)
    return kept


def replaced(words: list[str], option: str, value: str) -> list[str]:
    if option not in words:
        return [*words, option, value]
    at = words.index(option)
    return [*words[: at + 1], value, *words[at + 2 :]]


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the functions that train and measure take seconds, whatever a block asks of them."""

    def train(recipe: Any, data: Any, output: Any, *, settings: Any = (), **others: Any) -> Any:
        replaced = {change.partition("=")[0] for change in CHEAP_IMAGES}
        asked = [each for each in settings if each.partition("=")[0] not in replaced]
        return api.train(recipe, data, output, settings=[*asked, *CHEAP_IMAGES], **others)

    def export(network: Any, form: str, output: Any, **others: Any) -> Any:
        return api.export(network, form, output, **{"tolerance": 0.01, **others})

    timed = compactnets.benchmark
    monkeypatch.setattr(compactnets, "train", train, raising=False)
    monkeypatch.setattr(compactnets, "export", export, raising=False)
    monkeypatch.setattr(
        compactnets, "benchmark", lambda *a, **o: timed(*a, **{**o, "rounds": 1, "calls": 1}), raising=False
    )


def run_page(page: str, slow: bool, folder: Path, run: Callable[..., Outcome]) -> None:
    todo = list(steps(page, slow))
    made = [each.rstrip("/") for _, line in todo for each in re.findall(r"--output (\S+)", line)]
    made += [each.rstrip("/") for block, line in todo if not line for each in re.findall(r'"(runs/\w+)"', block.text)]
    prepare(folder, [Block(block.page, 0, "", line or block.text) for block, line in todo], made)
    names: dict[str, Any] = GIVEN[page]() if page in GIVEN else {}
    for block, line in todo:
        where = f"{page}:{block.line}"
        if line:
            done = run(*cheaper(line))
            assert done.code == 0, f"{where}: {line}\n{done.err}"
        else:
            exec(compile("\n" * (block.line - 1) + block.text, str(PAGES[page]), "exec"), names)


def pages(slow: bool) -> list[str]:
    found = [page for page in PAGES if any(True for _ in steps(page, slow))]
    return (
        found if not slow else [page for page in found if len(list(steps(page, True))) > len(list(steps(page, False)))]
    )


@pytest.mark.parametrize("page", pages(slow=False))
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Outcome]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, False, tmp_path, run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("page", pages(slow=True))
def test_the_blocks_of_a_page_run_with_training(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Outcome]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, True, tmp_path, run)
