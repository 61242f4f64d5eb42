"""push and pull against a stand-in of the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants
from PIL import Image

import compactnets
from compactnets.errors import InputError
from compactnets.hub import pull, push
from compactnets.hub.facts import recorded_latencies
from compactnets.models.form import KEY
from compactnets.segmentation.checkpoint import build
from compactnets.segmentation.cost import planned_record
from compactnets.training.checkpoint import read_tensors, save_checkpoint

from ..cli.helpers import Outcome
from .stand_in import TOKEN, Hub, Repository

LOCAL_SAFETENSORS = (1, 0, 26)  # the first timm whose local-dir: reads them; it unpickled every file before

Run = Callable[..., Outcome]
NAME, SHIPPED = "someone/network", "menet_108_8x1_g3.cifar10"


def logits(network: torch.nn.Module, size: int) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)))


def test_there_and_back(hub: Hub, run: Run, tmp_path: Path) -> None:
    """The weights that ship with the package: the same bits through compactnets and timm, and a card."""
    done = run("push", SHIPPED, NAME, "--private", "--json")
    assert done.code == 0, done
    assert TOKEN not in done.out + done.err
    pushed = json.loads(done.out)
    repository = hub.repositories[NAME]
    assert repository.private
    assert [*pushed["files"]] == ["model.safetensors", "model.json", "README.md", "config.json"]
    assert pushed["url"] == f"{hub.url}/{NAME}/commit/{repository.branches['main']}"
    assert hub.objects, "the weights went by LFS"
    assert len(repository.commits) == 2, "all files are one commit"

    done = run("pull", NAME, "--output", tmp_path / "here", "--json")
    assert done.code == 0, done
    pulled = json.loads(done.out)
    assert pulled["revision"] == repository.branches["main"]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {*pushed["files"]}
    expected = logits(compactnets.load(SHIPPED).network, 32)
    assert torch.equal(logits(compactnets.load(pulled["checkpoint"]).network, 32), expected)
    network = timm.create_model(f"hf-hub:{NAME}", pretrained=True)
    assert torch.equal(logits(network, 32), expected)
    assert network.pretrained_cfg["mean"] == [0.4914, 0.4822, 0.4465]
    assert network.pretrained_cfg["label_names"][3] == "cat"
    if tuple(map(int, timm.__version__.split(".")[:3])) >= LOCAL_SAFETENSORS:
        assert torch.equal(logits(timm.create_model(f"local-dir:{tmp_path / 'here'}", pretrained=True), 32), expected)
    other = timm.create_model(f"hf-hub:{NAME}", pretrained=True, num_classes=3)
    assert logits(other, 32).shape == (2, 3)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    one, other = (
        run("predict", option, what, tmp_path / "a.png", "--json").out
        for option, what in (("--checkpoint", pulled["checkpoint"]), ("--weights", SHIPPED))
    )
    assert json.loads(one) == json.loads(other)

    text = repository.commits[repository.branches["main"]]["README.md"].decode()
    assert hub.cards == [text], "huggingface_hub has the Hub validate the front matter"
    data = ModelCard(text).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("compactnets", "apache-2.0", "image-classification")
    assert set(data.tags) == {"compactnets", "image-classification", "timm"}
    result = data.eval_results[0]
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("cifar10", "accuracy", 88.81)
    record = json.loads((tmp_path / "here" / "model.json").read_text(encoding="utf-8"))
    for part in (record["source"].partition(": ")[2], "88.81 %", "10,000 validation images", "Apache-2.0", NAME):
        assert part in text


def test_another_form_and_a_branch(hub: Hub, own_network: Path, tmp_path: Path) -> None:
    """A MuffNet whose matrices no name tells, a branch, and a licence."""
    push(own_network, NAME, message="first", license="MIT", revision="trial")
    assert hub.messages == ["first"]
    assert [*hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]] == [".gitattributes"]
    pulled = pull(f"hf-hub:{NAME}@trial", tmp_path / "here")
    assert pulled.license == "MIT"
    expected = logits(compactnets.load(own_network).network, 64)
    assert torch.equal(logits(compactnets.load(pulled.checkpoint).network, 64), expected)
    assert torch.equal(logits(timm.create_model(f"hf-hub:{NAME}@trial", pretrained=True), 64), expected)
    assert KEY in read_tensors(pulled.checkpoint)
    text = (tmp_path / "here" / "README.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.license == "mit"
    assert not ModelCard(text).data.eval_results, "nothing is claimed that the record does not say"
    with pytest.raises(InputError, match="given twice"):
        pull(f"{NAME}@trial", tmp_path / "more", revision="main")


@pytest.mark.slow
def test_a_segmenter(hub: Hub, tmp_path: Path) -> None:
    """Another task: the card says which, and there is nothing for timm."""
    record = planned_record("menet_108_8x1_g3", "lraspp", settings=[])
    record = record.model_copy(update={"size": (64, 96), "class_names": ["road", "car"]})
    made = build(record).eval()
    save_checkpoint(tmp_path / "a.safetensors", made.state_dict(), record)
    push(tmp_path / "a.safetensors", NAME)
    pulled = pull(NAME, tmp_path / "here")
    assert pulled.task == "segmentation"
    assert not (tmp_path / "here" / "config.json").exists()
    state = compactnets.load(pulled.checkpoint).network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in made.state_dict().items())
    card = ModelCard((tmp_path / "here" / "README.md").read_text(encoding="utf-8"))
    assert card.data.pipeline_tag == "image-segmentation"


def pushed_files(hub: Hub) -> dict[str, bytes]:
    push(SHIPPED, NAME)
    repository = hub.repositories[NAME]
    return repository.commits[repository.branches["main"]]


def refused(run: Run, *arguments: object) -> str:
    found = run(*arguments)
    assert found.code == 2, found
    assert "Traceback" not in found.err
    assert TOKEN not in found.err
    lines = found.err.strip().splitlines()
    assert len(lines) == 1, found.err
    return lines[0]


def test_repositories_that_are_no_checkpoint(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = pushed_files(hub)
    record = json.loads(files["model.json"])

    def changed(**fields: object) -> dict[str, bytes]:
        return {**files, "model.json": json.dumps({**record, **fields}).encode()}

    here = tmp_path / "here"
    for name, content, told in (
        ("pickle", {"config.json": b"{}", "pytorch_model.bin": b"x"}, "pytorch_model.bin, a pickle, which is not read"),
        ("bare", {"model.safetensors": files["model.safetensors"]}, "has no model.json"),
        ("empty", {".gitattributes": b""}, "has no model.safetensors, found .gitattributes"),
        ("short", {**files, "model.safetensors": files["model.safetensors"][:-9]}, "not a readable safetensors file"),
        ("json", {**files, "model.json": b"{"}, "model.json"),
        ("list", {**files, "model.json": b"[]"}, "model.json is not a record"),
        ("other", changed(model="muffnet_x0_5"), "is not a checkpoint of muffnet_x0_5"),
        ("form", changed(arguments={"stem": "imagenet", "num_classes": 10, "in_chans": 3}), 'stem="cifar"'),
        ("field", changed(mine=1), "mine"),
        ("load", changed(model="timm:hf-hub:someone/else"), "expected the name of a network"),
        ("file", changed(arguments={"checkpoint_path": "/etc/passwd"}), "checkpoint_path, which no network needs"),
    ):
        hub.put(f"someone/{name}", content)
        assert told in refused(run, "pull", f"someone/{name}", "--output", here), name
        assert not here.exists(), name
    assert not list(tmp_path.glob(".compactnets*"))


def test_a_damaged_download(hub: Hub, run: Run, tmp_path: Path) -> None:
    push(SHIPPED, NAME)
    hub.damaged.add("model.safetensors")
    assert "is damaged: its sha256" in refused(run, "pull", NAME, "--output", tmp_path / "here")
    assert not (tmp_path / "here").exists()
    hub.damaged.clear()
    assert run("pull", NAME, "--output", tmp_path / "here").code == 0, "the damaged file is not kept in the cache"


def test_names_and_rights(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    assert "there is no repository someone/none, or it is private" in refused(
        run, "pull", "someone/none", "--output", here
    )
    assert "there is no repository" in refused(run, "pull", "someone/none", "--output", here)
    hub.put(NAME, {".gitattributes": b""})
    assert "has no such revision" in refused(run, "pull", f"{NAME}@v9", "--output", here)
    for name in ("network", "a/b/c", "some one/network", f"{NAME}@", "/network"):
        assert "OWNER/NAME" in refused(run, "pull", name, "--output", here)
        assert "OWNER/NAME" in refused(run, "push", SHIPPED, name)
    assert "--revision" in refused(run, "push", SHIPPED, f"{NAME}@main")
    assert "no checkpoint at" in refused(run, "push", tmp_path / "none.safetensors", NAME)
    assert "this token may not do that" in refused(run, "push", SHIPPED, "other/network")
    monkeypatch.delenv("HF_TOKEN")
    assert "no valid token: set HF_TOKEN, or run 'hf auth login'" in refused(run, "push", SHIPPED, NAME)
    hub.repositories[NAME] = Repository(private=True)
    assert "or it is private: set HF_TOKEN" in refused(run, "pull", NAME, "--output", here)
    here.mkdir()
    (here / "mine").write_text("mine", encoding="utf-8")
    assert "is not empty" in refused(run, "pull", NAME, "--output", here)
    assert [path.name for path in here.iterdir()] == ["mine"]


def test_no_network(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(run, "pull", NAME, "--output", tmp_path / "here")
    assert "HF_HUB_OFFLINE is set" in refused(run, "push", SHIPPED, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    assert "cannot pull someone/network at http://127.0.0.1:9" in refused(run, "pull", NAME, "--output", tmp_path / "a")
    assert "cannot push someone/network at http://127.0.0.1:9" in refused(run, "push", SHIPPED, NAME)
    assert not hub.requests


def test_no_other_verb_asks_a_host(hub: Hub, run: Run) -> None:
    for arguments in (["eval", "--checkpoint", f"hf-hub:{NAME}", "--data", "digits"], ["profile", f"hf-hub:{NAME}"]):
        assert f"'compactnets pull {NAME} --output DIR'" in refused(run, *arguments)
    assert not hub.requests


def test_a_latency_is_that_of_the_same_network() -> None:
    """Recorded for 1,000 classes at 224 pixels, with this cost; another one has no time."""
    found = recorded_latencies({"menet_108_8x1_g3"}, 38_287_440, 654_516)
    assert {"c", "onnx"} <= {each.runtime for each in found}
    assert [each.milliseconds for each in found] == sorted(each.milliseconds for each in found)
    assert not recorded_latencies({"menet_108_8x1_g3"}, 42_000_000, 230_000)


@pytest.mark.slow
def test_in_a_process_of_its_own(hub: Hub, tmp_path: Path) -> None:
    """With ``$HF_ENDPOINT``, as a user of a mirror sets it."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    for arguments in (["push", SHIPPED, NAME], ["pull", NAME, "--output", str(tmp_path / "here")]):
        done = subprocess.run(
            [sys.executable, "-m", "compactnets", *arguments],
            env={**environment, "HF_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
    assert (tmp_path / "here" / "model.safetensors").is_file()
