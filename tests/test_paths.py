"""Functions for users take a path as text, and ``~`` is the home folder."""

from __future__ import annotations

import importlib
import inspect
import shutil
from operator import attrgetter
from pathlib import Path

import pytest

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.deploy import load_artifact
from compactnets.detection.checkpoint import load_detector
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.latency.results import read_results, write_results
from compactnets.plots import draw_sharing
from compactnets.training.checkpoint import save_checkpoint

ENTRIES = {
    "classification.legacy": ["convert"],
    "classification.checkpoint": ["load_checkpoint"],
    "training.checkpoint": ["save_checkpoint", "read_record"],
    "classification.discretization": ["discretize_checkpoint"],
    "training.loop": ["run"],
    "tasks.contract": ["Task.train"],
    "classification.preparation": ["prepare"],
    "training.recipe_files": ["load_recipe"],
    "data.images": ["read_image"],
    "deploy": ["export", "load_artifact"],
    "web.site": ["build_site"],
    "deploy.record": ["read_artifact"],
    "tasks.opening": ["open_model", "look", "open_to_write", "open_subject"],
    "api": ["load", "train", "evaluate", "predict", "export", "quantize", "profile", "check"],
    "latency.benchmark": ["benchmark"],
    "latency.results": ["write_results", "read_results", "draw"],
    "classification.quantization": ["quantize", "quantize_model"],
    "quantization": ["quantize"],
    "detection.checkpoint": ["load_detector"],
    "detection.data": ["convert"],
    "detection.deploy.export": ["export_detector"],
    "detection.deploy.runtime": ["load_detector_artifact"],
    "detection.examples": ["examples_page", "write_examples"],
    "detection.prediction": ["predict_objects"],
    "papers.ablation": ["run_ablation"],
    "pictures": ["save_figure"],
    "plots": ["draw_sharing"],
    "quickstart": ["run"],
    "report": ["write_report"],
    "values": ["read_yaml", "read_json"],
}


@pytest.mark.parametrize("module", ENTRIES)
def test_functions_for_users_take_paths_as_text(module: str) -> None:
    for name in ENTRIES[module]:
        function = attrgetter(name)(importlib.import_module(f"compactnets.{module}"))
        annotations = [str(each) for key, each in inspect.get_annotations(function).items() if key != "return"]
        paths = [each for each in annotations if "Path" in each]
        assert paths, name
        assert all("str |" in each for each in paths), (name, paths)


def test_a_path_as_text_is_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_network: Path) -> None:
    """Each in the spelling that a shell leaves alone in ``--option=~/x``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for suffix in (".safetensors", ".json"):
        shutil.copy(own_network.with_suffix(suffix), tmp_path)
    assert as_path("~/a") == as_path(Path("~/a")) == tmp_path / "a"
    model, record = load_checkpoint("~/found.safetensors")
    save_checkpoint("~/again.safetensors", model.state_dict(), record)
    assert (tmp_path / "again.json").is_file()
    draw_sharing(model, "~/m.svg")
    assert (tmp_path / "m.svg").is_file()
    write_results({"rows": []}, "~/r.json")
    assert read_results("~/r.json")["rows"] == []
    with pytest.raises(InputError, match=str(tmp_path / "none")):
        load_artifact("~/none")
    with pytest.raises(InputError, match="none"):
        load_detector("~/none.safetensors")
    assert not (Path.cwd() / "~").exists()
