"""The command line as a user meets it: what it prints, its exit codes, one line for bad input."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets import create_model
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.training.checkpoint import read_record

from .helpers import Outcome

TINY = ["--set", "model_arguments.stem=cifar", "--set", "preprocess.size=16", "--set", "epochs=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of two classes that differ in brightness."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for name, low in (("dark", 0), ("light", 128)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(low, low + 128, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by the command line in a process of its own."""
    output = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "compactnets", "train", "imagenet/menet", "--data", str(folder)]
    command += ["--model", "shufflenet_g3_x0_25", "--output", str(output), "--json", *TINY]
    command += ["--set", "batch_size=12", "--set", "workers=0", "--set", "schedule={name: cosine}", "--device", "cpu"]
    command += ["--set", "preprocess.resize=18"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 2
    return output


def test_help_is_quick_and_names_every_verb() -> None:
    """Whole process, best of three: heavy imports are lazy."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; sys.argv = ['compactnets', '--help']; import compactnets_cli as c; c.main()",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
    for verb in (
        "quickstart",
        "train",
        "eval",
        "predict",
        "list",
        "convert",
        "profile",
        "papers",
        "recipes",
        "draw",
        "data",
    ):
        assert verb in done.stdout
    assert min(seconds) < 1


def test_help_does_not_import_torch() -> None:
    code = "import sys, compactnets_cli; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_main_job_on_an_image_folder(run: Callable[..., Outcome], folder: Path, trained: Path) -> None:
    checkpoint = trained / "best.safetensors"
    result = run("eval", "--checkpoint", checkpoint, "--data", folder, "--json").json
    assert result["images"] == 12
    assert result["model"] == "shufflenet_g3_x0_25"
    train = run("eval", "--checkpoint", checkpoint, "--data", folder, "--split", "train", "--json").json
    assert train["images"] == 48
    text = run("eval", "--checkpoint", checkpoint, "--data", folder).out
    assert f"top-1 {result['top1_percent']:.2f} %" in text
    image = folder / "val" / "dark" / "0.png"
    predictions = run("predict", "--checkpoint", checkpoint, image, "--json").json
    assert {guess["class_name"] for guess in predictions[0]["guesses"]} == {"dark", "light"}
    shown = run("predict", "--checkpoint", checkpoint, image, "--top", 1)
    assert shown.code == 0
    assert str(image) in shown.out.replace("\n", "")


def test_predict_reports_unreadable_images_after_the_others(
    run: Callable[..., Outcome], folder: Path, trained: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    good = folder / "val" / "dark" / "0.png"
    outcome = run("predict", "--checkpoint", trained / "last.safetensors", broken, good, "--json")
    assert outcome.code == 2
    assert len(outcome.json[1]["guesses"]) == 2
    assert str(broken) in outcome.err.replace("\n", "")
    assert "Traceback" not in outcome.err


def test_train_print_config(run: Callable[..., Outcome]) -> None:
    outcome = run("train", "cifar/muffnet", "--data", "cifar10", "--set", "epochs=9", "--print-config")
    assert "epochs: 9" in outcome.out
    assert run("train", "cifar/muffnet", "--data", "x", "--print-config", "--json").json["batch_size"] == 128
    taught = run("train", "cifar/muffnet", "--data", "x", "--teacher", "a: b", "--print-config", "--json").json
    assert taught["distillation"]["teacher"] == "a: b"


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def _bad_input(folder: Path, trained: Path, tmp: Path) -> dict[str, tuple[list[object], str]]:
    checkpoint = trained / "last.safetensors"
    (tmp / "empty").mkdir()
    (tmp / "hole" / "train" / "cat").mkdir(parents=True)
    (tmp / "hole" / "val" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp / "hole" / "val" / "cat" / "0.png")
    (tmp / "bad" / "train" / "a").mkdir(parents=True)
    (tmp / "bad" / "val" / "a").mkdir(parents=True)
    for split in ("train", "val"):
        Image.new("RGB", (40, 40)).save(tmp / "bad" / split / "a" / "0.png")
    (tmp / "bad" / "train" / "a" / "1.png").write_bytes(b"\x89PNG broken")
    with (tmp / "hostile.pth.tar").open("wb") as file:
        pickle.dump({"state_dict": Bomb(tmp / "executed")}, file)
    torch.save({"state_dict": create_model("menet_108_8x1_g3").state_dict()}, tmp / "ours.pth")
    (tmp / "text.pth").write_text("hello")
    train = ["train", "cifar/muffnet", "--output", tmp / "out", "--device", "cpu"]
    convert = ["convert", "--model", "menet_108_8x1_g3", "--output", tmp / "new.safetensors"]
    return {
        "unknown model": ([*train, "--data", "digits", "--model", "menet_108"], "did you mean 'menet_108_8x1_g3'"),
        "unknown recipe": (["train", "cifar/menet", "--data", "digits"], "no recipe 'cifar/menet'"),
        "wrong key": ([*train, "--data", "digits", "--set", "batchsize=3"], "did you mean 'batch_size'"),
        "own kernels": (
            [*train, "--data", "digits", "--set", "kernels=own", "--set", "compile=default"],
            "compile: true or false, not default",
        ),
        "no output": (["train", "cifar/muffnet", "--data", "digits"], "needs --output"),
        "unknown word": ([*train, "--data", "cifar11"], "cifar10"),
        "missing folder": ([*train, "--data", tmp / "nowhere"], "nowhere"),
        "empty folder": ([*train, "--data", tmp / "empty"], "empty"),
        "class without images": ([*train, "--data", tmp / "hole"], "cat"),
        "unreadable image": ([*train, "--data", tmp / "bad", "--set", "batch_size=2"], "1.png"),
        "unreadable image in a worker": (
            [*train, "--data", tmp / "bad", "--set", "batch_size=2", "--set", "workers=1"],
            "1.png",
        ),
        "other classes": (["eval", "--checkpoint", checkpoint, "--data", "digits"], "does not know"),
        "missing checkpoint": (["eval", "--checkpoint", tmp / "no.safetensors", "--data", folder], "no checkpoint at"),
        "hostile pickle": ([*convert, tmp / "hostile.pth.tar"], "was refused"),
        "not a legacy checkpoint": ([*convert, tmp / "ours.pth"], "expected keys of the MENet repository"),
        "text file": ([*convert, tmp / "text.pth"], "is not a PyTorch checkpoint"),
        "unknown network": (["profile", "muffnet_x2"], "did you mean 'muffnet_x"),
        "unknown argument": (["profile", "muffnet_x0_5", "--set", "sharin=none"], "did you mean 'sharing'"),
        "two stems": (["profile", "muffnet_x0_5", "--stem", "cifar", "--set", "stem=imagenet"], "stem=imagenet"),
        "wrong sharing": (["profile", "muffnet_x0_5", "--set", "sharing=none+none"], "for each of 3 stages"),
        "no match": (["list", "menets*"], "no network is called 'menets*'"),
        "no table": (["papers", "cost", "menet IX"], "has no table 'IX'"),
        "profile nothing": (["profile", "no.safetensors"], "no checkpoint at no.safetensors"),
        "draw another": (["draw", "menet_108_8x1_g3", "--output", tmp / "m.svg"], "only MuffNet has sharing matrices"),
    }


CASES = [
    "unknown model", "unknown recipe", "wrong key", "own kernels", "no output", "unknown word", "missing folder",
    "empty folder", "class without images", "unreadable image", "unreadable image in a worker", "other classes",
    "missing checkpoint", "hostile pickle", "not a legacy checkpoint", "text file", "unknown network",
    "unknown argument", "two stems", "wrong sharing", "no match", "no table", "profile nothing", "draw another",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Callable[..., Outcome], folder: Path, trained: Path, tmp_path: Path, case: str
) -> None:
    cases = _bad_input(folder, trained, tmp_path)
    assert sorted(cases) == sorted(CASES)
    arguments, message = cases[case]
    outcome = run(*arguments)
    assert outcome.code == 2, outcome
    errors = [line for line in outcome.err.splitlines() if line.startswith("compactnets: error: ")]
    assert len(errors) == 1, outcome.err
    assert message in errors[0]
    assert outcome.err.splitlines()[-1] == errors[0]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "new.safetensors").exists()


def test_usage_errors_exit_with_2(run: Callable[..., Outcome]) -> None:
    assert run("train").code == 2
    assert run("fly").code == 2
    assert run("eval", "--checkpoint", "a", "--data", "b", "--split", "test").code == 2


def test_convert_and_eval_give_the_authors_numbers(run: Callable[..., Outcome], shared: Path, tmp_path: Path) -> None:
    """The first images only; the whole sample is tested in tests/models/test_menet.py."""
    output = tmp_path / "menet.safetensors"
    legacy = shared / "weights" / "108-MENet-8x1-group-3.pth.tar"
    record = run("convert", legacy, "--model", "menet_108_8x1_g3", "--output", output, "--json").json
    assert (record["model"], len(record["class_names"])) == ("menet_108_8x1_g3", 1000)
    assert record["class_names"][0] == "n01440764"
    assert "tench" in record["class_labels"][0]
    wrong = run("convert", legacy, "--model", "menet_128_8x1_g4", "--output", tmp_path / "wrong.safetensors")
    assert wrong.code == 2
    assert "is not a checkpoint of menet_128_8x1_g4" in wrong.err
    assert "stem.conv" not in wrong.err  # both have 12 channels there: only what differs is named
    assert not (tmp_path / "wrong.safetensors").exists()


def test_list_and_recipes(run: Callable[..., Outcome]) -> None:
    rows = run("list", "muffnet*", "--json").json
    assert [(row["name"], row["macs"], row["params"]) for row in rows] == [
        ("muffnet_x0_5", 41_800_085, 1_382_111),
        ("muffnet_x1_0", 145_531_174, 2_262_749),
        ("muffnet_x1_5", 299_680_666, 3_380_803),
    ]
    assert "muffnet_x0_5" in run("list", "muffnet_x0_5").out
    assert {row["name"] for row in run("recipes", "--json").json} >= {"cifar/muffnet", "imagenet/menet"}


def test_profile_follows_the_stem(run: Callable[..., Outcome]) -> None:
    small = run("profile", "muffnet_x0_5", "--stem", "cifar", "--json").json
    assert small["input_size"] == [3, 32, 32]
    assert small["macs"] == 41_251_136  # Table 5: 41 M
    large = run("profile", "muffnet_x0_5", "--input-size", 3, 160, 160, "--json").json
    assert large["input_size"] == [3, 160, 160]
    assert run("profile", "muffnet_x0_5", "--set", "stem=cifar", "--json").json == small
    assert run("profile", "muffnet_x0_5", "--set", "in_chans=1", "--json").json["input_size"] == [1, 224, 224]
    per_layer = run("profile", "shufflenet_g3_x0_25", "--per-layer").out
    assert "stages.0.0.compress" in per_layer


def test_draw_writes_a_picture(run: Callable[..., Outcome], tmp_path: Path) -> None:
    picture = tmp_path / "m.svg"
    assert run("draw", "muffnet_x0_5", "--output", picture, "--json").json["output"] == str(picture)
    assert "<svg" in picture.read_text()


def test_a_checkpoint_is_drawn_and_profiled_as_what_it_is(
    run: Callable[..., Outcome], own_network: Path, tmp_path: Path
) -> None:
    pictures = {name: tmp_path / f"{number}.svg" for number, name in enumerate([own_network, "muffnet_x0_5"])}
    for name, picture in pictures.items():
        assert run("draw", name, "--output", picture).code == 0
    own, paper = (picture.read_text() for picture in pictures.values())
    assert own != paper
    cost = run("profile", own_network, "--json").json
    assert cost["input_size"] == [3, 64, 64]
    sharing = f"sharing={json.dumps(read_record(own_network, CheckpointRecord).arguments['sharing'])}"
    size = ["--input-size", 3, 64, 64]
    again = run("profile", "muffnet_x0_5", "--set", sharing, "--num-classes", 3, *size, "--json").json
    assert cost["macs"] == again["macs"]
    smaller = run("profile", own_network, "--input-size", 1, 32, 32, "--num-classes", 5, "--json").json
    assert smaller["input_size"] == [1, 32, 32]
    assert smaller["macs"] < cost["macs"] / 3
    spoiled = tmp_path / "spoiled.safetensors"
    spoiled.write_bytes(own_network.read_bytes())
    record = json.loads(own_network.with_suffix(".json").read_text())
    spoiled.with_suffix(".json").write_text(json.dumps({**record, "preprocess": {}}))
    refused = run("profile", spoiled)
    assert refused.code == 2
    assert "lacks size" in refused.err


def test_every_verb_takes_json() -> None:
    import typer

    from compactnets_cli import app

    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for group in ("papers", "data"):
        commands |= {f"{group} {name}": verb for name, verb in commands.pop(group).commands.items()}
    for name, command in commands.items():
        assert any("--json" in parameter.opts for parameter in command.params), name
