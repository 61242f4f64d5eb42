"""Searches on a toy space: they end, go on after a kill, and keep to the budget."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.main import get_command

from compactnets.api import open_recipe
from compactnets.data import open_source
from compactnets.errors import InputError
from compactnets.search import find, outcome, space, study, table
from compactnets.search.outcome import Finalist, _mark
from compactnets.search.table import LatencyTable, time_by_command
from compactnets.training.interruption import Interrupted
from compactnets_cli.app import app

from .helpers import RECIPE, SETTINGS, fake_benchmark, toy

optuna = pytest.importorskip("optuna", reason="optuna is not installed")


def _macs_of(trial: Any) -> float:
    return float(trial.user_attrs["costs"]["macs"])


@pytest.fixture(autouse=True)
def _toy_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of five small networks, whose latency on the benchmark is their width."""
    monkeypatch.setitem(space.FAMILIES, "menet", toy)
    monkeypatch.setattr(outcome, "benchmark", fake_benchmark)


def search(output: Path, budget: tuple[str, ...] = ("macs=1M",), **options: Any) -> Any:
    given = {"family": "menet", "recipe": RECIPE, "settings": SETTINGS, "trials": 2, "epochs": 2, "rungs": 1}
    return find(options.pop("data", "digits"), output, budget, **{**given, **options})


def test_a_search_ends_with_a_network_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(tmp_path)
    assert (found.trained, len(found.finalists)) == (2, 2 - found.stopped)
    assert found.chosen is not None
    text = (tmp_path / "chosen.yaml").read_text()
    assert f"residual_width: {found.chosen.candidate['arguments']['residual_width']}" in text
    assert "hold_out: 0" in text
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["chosen"]["top1"] == found.chosen.top1
    assert (tmp_path / "search.svg").is_file()
    monkeypatch.setattr(study, "train_member", lambda *_, **__: pytest.fail("trained again"))
    assert search(tmp_path).to_dict() == found.to_dict()
    with pytest.raises(InputError, match="another budget"):
        search(tmp_path, ("macs=2M",))


def _undivided(folder: Path, kind: str) -> str:
    """Thirty images of three digits, without a split: as class folders, or in a table."""
    source = open_source("digits", "train")
    rows = []
    for label in range(3):
        for index in np.flatnonzero(source.labels == label)[:10]:
            path = folder / "photos" / f"digit{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            source.image(int(index)).save(path)
            rows.append((path.relative_to(folder).as_posix(), f"digit{label}"))
    if kind == "folder":
        return str(folder / "photos")
    mark = {"csv": ",", "tsv": "\t"}[kind]
    (folder / f"list.{kind}").write_text("".join(mark.join(row) + "\n" for row in [("image", "label"), *rows]))
    return str(folder / f"list.{kind}")


@pytest.mark.parametrize("kind", ["folder", "csv", "tsv"])
def test_undivided_images_are_searched_on_the_share_that_is_trained_on(tmp_path: Path, kind: str) -> None:
    data, output = _undivided(tmp_path, kind), tmp_path / "search"
    small = [*SETTINGS[1:], "batch_size=8"]
    with pytest.raises(InputError, match=r"--split 0\.8"):
        search(output, data=data, settings=small, trials=1)
    assert not output.exists()
    found = search(output, data=data, settings=[*small, "split=0.8"], trials=1, epochs=1, rungs=0)
    record = json.loads((output / "runs" / found.finalists[0].name / "last.json").read_text())
    assert record["class_names"] == ["digit0", "digit1", "digit2"]
    assert record["training"]["recipe"]["hold_out"] == 2  # a tenth of the 24 to train on
    chosen = open_recipe(str(output / "chosen.yaml"), [])[1]
    assert (chosen.split, chosen.hold_out) == (0.8, 0)
    with pytest.raises(InputError, match="another recipe"):
        search(output, data=data, settings=[*small, "split=0.5"], trials=1, epochs=1, rungs=0)


def test_an_interrupted_search_goes_on_with_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search(tmp_path / "whole")
    train, calls = study.train_member, []

    def stops(member: Any, *arguments: Any) -> Any:
        calls.append((member.name, member.recipe.epochs))
        if len(calls) == 2:
            raise Interrupted(2)
        return train(member, *arguments)

    monkeypatch.setattr(study, "train_member", stops)
    with pytest.raises(Interrupted):
        search(tmp_path / "part")
    found = search(tmp_path / "part")
    assert calls[1][1] == 2
    assert calls[2] == calls[1]  # what the first rung gave is known
    assert found.trained == 2
    finalists = {each.name: each.top1 for each in expected.finalists}
    assert {each.name: each.top1 for each in found.finalists}.items() & finalists.items()


def test_nothing_over_the_budget_is_trained(tmp_path: Path) -> None:
    found = search(tmp_path, ("macs=150K",))
    for trial in optuna.load_study(
        study_name="compactnets",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / study.STUDY))),
    ).trials:
        if trial.intermediate_values:
            assert _macs_of(trial) <= 150e3
    assert found.trained == 2


def test_a_space_without_a_network_in_the_budget_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PATIENCE", 5)
    with pytest.raises(InputError, match="none of 5 candidates .* raise the budget"):
        search(tmp_path, ("macs=10",))


def test_networks_for_comparison_keep_no_budget(tmp_path: Path) -> None:
    found = search(tmp_path, ("macs=60K",), trials=1, compared=["shufflenet_g3_x0_25"])
    compared = [each for each in found.finalists if each.compared]
    assert [each.name for each in compared] == ["shufflenet_g3_x0_25"]
    assert not compared[0].best


def test_only_candidates_have_their_latency_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network for comparison may be of any family."""
    pytest.importorskip("pytorchcv", reason="the peers need pytorchcv")
    families = []

    def predict(self: LatencyTable, model: torch.nn.Module, shape: tuple[int, ...]) -> float:
        families.append(type(model).__name__)
        return 0.1

    monkeypatch.setattr(LatencyTable, "calibrate", lambda *_: None)
    monkeypatch.setattr(LatencyTable, "multiple", 1)
    monkeypatch.setattr(study, "say_error", lambda _: None)
    monkeypatch.setattr(study, "say_multiple", lambda *_: None)
    monkeypatch.setattr(LatencyTable, "predict", predict)
    found = search(tmp_path, ("latency=9ms",), trials=1, compared=["mobilenetv2_x0_35"])
    assert {each.name for each in found.finalists if each.compared} == {"mobilenetv2_x0_35"}
    assert set(families) == {"MENet"}


def test_a_stopped_network_is_no_finalist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top1 = iter([10.0, 80.0, 90.0, 95.0, 20.0, 30.0])
    asked: list[int] = []

    def trains(member: Any, *_: Any) -> Any:
        asked.append(member.recipe.epochs)
        value = next(top1)
        return SimpleNamespace(result={"final": {"top1_percent": value}}, error=None)

    monkeypatch.setattr(study, "train_member", trains)
    request = {"trials": 3, "epochs": 2, "rungs": 1}
    checked = {"arguments": {"residual_width": 12}}
    monkeypatch.setattr(outcome, "_checkpoint", lambda request, trial: _written(tmp_path, trial, checked))
    found = search(tmp_path / "search", **request)
    assert asked == [1, 2, 1, 2, 1]
    assert (found.trained, found.stopped) == (3, 1)
    assert sorted(each.top1 for each in found.finalists) == [80.0, 95.0]


def _written(folder: Path, trial: Any, record: dict[str, Any]) -> Path:
    path = folder / f"{trial.number}" / "last.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(record))
    path.touch()
    return path


def test_what_would_fail_for_every_network_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be run"):
        search(tmp_path, ("latency=1ms",), device_command="/does/not/exist")
    with pytest.raises(InputError, match="no network is called 'nonet'"):
        search(tmp_path / "other", compared=["nonet"])
    assert not (tmp_path / "other" / study.STUDY).exists()


def test_a_warm_up_longer_than_the_first_rung_is_left_out_of_all(tmp_path: Path) -> None:
    """Each rung goes on with the run of the one before, which must not have another recipe."""
    found = search(tmp_path, trials=1, settings=[*SETTINGS[:-1], "schedule.warmup_epochs=1"])
    assert (found.trained, len(found.finalists)) == (1, 1)


def test_the_command_line_leaves_the_defaults_to_find_and_tells_them() -> None:
    options = {option.name: option for option in get_command(app).commands["search"].params}  # type: ignore[attr-defined]
    told = 0
    for name, parameter in inspect.signature(find).parameters.items():
        option = options[name]
        if not option.required:
            assert option.default in (None, False), name
        if isinstance(parameter.default, str | int) and parameter.default is not False:
            assert option.help.endswith(f"; default: {parameter.default}."), name
            told += 1
        if (field := study.Request.__dataclass_fields__.get(name)) and field.default is not dataclasses.MISSING:
            assert parameter.default == field.default
    assert told >= 9


def test_too_few_epochs_for_the_rungs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 8 for 3 rungs"):
        search(tmp_path, epochs=4, rungs=3)


def test_only_what_none_beats_is_best() -> None:
    def one(name: str, latency: float, top1: float, *over: str, compared: bool = False) -> Finalist:
        return Finalist(name, {}, compared, top1, {"latency": latency}, None, over)

    given = [one("a", 1, 80), one("b", 2, 85), one("c", 2, 84), one("d", 3, 85), one("e", 1, 99, "bytes")]
    marked = _mark([*given, one("f", 1, 99, compared=True)])
    assert [each.name for each in marked if each.best] == ["a", "b"]


def _pretend(member: Any, data: str, folder: Path, *_: Any) -> Any:
    """Train nothing: wider is better."""
    path = folder / member.name / "last.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".safetensors").touch()
    path.write_text(json.dumps({"arguments": dict(member.recipe.model_arguments)}))
    top1 = float(member.recipe.model_arguments["residual_width"])
    return SimpleNamespace(result={"final": {"top1_percent": top1}}, error=None)


@pytest.mark.parametrize("kind", ["database", "file"])
def test_what_another_machine_trained_is_measured_once_it_is_here(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "train_member", _pretend)
    storage = f"sqlite:///{tmp_path / 'study.db'}" if kind == "database" else str(tmp_path / "shared.log")
    options = {"storage": storage, "epochs": 1, "rungs": 0}
    first = search(tmp_path / "one", trials=1, **options)
    second = search(tmp_path / "two", trials=3, **options)
    (name,) = (each.name for each in first.finalists)
    assert second.trained == 3
    assert second.elsewhere == (name,)
    assert len(second.finalists) == 2
    second.show()
    assert f"{name}\n" in capsys.readouterr().out
    third = search(tmp_path / "three", trials=3, **options)  # came when all was done
    assert (third.finalists, len(third.elsewhere), third.chosen) == ((), 3, None)
    third.show()
    assert "next:" not in capsys.readouterr().out
    shutil.copytree(tmp_path / "one" / "runs" / name, tmp_path / "two" / "runs" / name)
    whole = search(tmp_path / "two", trials=3, **options)
    assert len(whole.finalists) == 3
    assert whole.elsewhere == ()
    with pytest.raises(InputError, match=r"the storage holds .* another budget"):
        search(tmp_path / "four", ("macs=2M",), **options)


def test_a_study_of_other_images_or_another_processor_is_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "train_member", _pretend)
    monkeypatch.setattr(study.Search, "measure", lambda _: None)
    monkeypatch.setattr(LatencyTable, "predict", lambda *_: 0.1)
    options = {"storage": str(tmp_path / "shared.log"), "epochs": 1, "rungs": 0, "trials": 1}
    small = [*SETTINGS[1:], "batch_size=8", "split=0.8"]
    search(tmp_path / "one", ("latency=9ms",), settings=small, data=_undivided(tmp_path, "folder"), **options)
    next((tmp_path / "photos" / "digit0").iterdir()).unlink()
    with pytest.raises(InputError, match="another images"):
        search(tmp_path / "two", ("latency=9ms",), settings=small, data=str(tmp_path / "photos"), **options)
    (tmp_path / "shared.log").unlink()
    search(tmp_path / "one", ("latency=9ms",), **options)
    monkeypatch.setattr(study, "cpu_name", lambda: "another")
    with pytest.raises(InputError, match="another processor"):
        search(tmp_path / "two", ("latency=9ms",), **options)


@pytest.mark.parametrize("storage", ["nodatabase://a/b", "sqlite:////does/not/exist/a.db", "/does/not/exist/a.log"])
def test_a_storage_that_cannot_be_opened_is_one_line(storage: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--storage cannot be opened") as error:
        search(tmp_path, storage=storage)
    assert "\n" not in str(error.value)


def test_a_database_that_goes_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> Any:
        database.write_bytes(b"no database any more" * 1000)
        return SimpleNamespace(result={"final": {"top1_percent": 50.0}}, error=None)

    database = tmp_path / "study.db"
    monkeypatch.setattr(study, "train_member", train)
    with pytest.raises(InputError, match="--storage cannot be used .* rerun the command") as error:
        search(tmp_path / "search", storage=f"sqlite:///{database}")
    assert "\n" not in str(error.value)


def test_widths_are_of_the_multiple_that_the_first_process_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def asks(trial: Any, multiple: int) -> tuple[str, dict[str, Any]]:
        asked.append(multiple)
        return toy(trial)

    monkeypatch.setitem(space.FAMILIES, "menet", asks)
    monkeypatch.setattr(LatencyTable, "calibrate", lambda *_: None)
    monkeypatch.setattr(LatencyTable, "predict", lambda *_: 0.1)
    monkeypatch.setattr(study, "say_error", lambda _: None)
    measured = {"c": 8}
    monkeypatch.setattr(LatencyTable, "multiple", property(lambda self: measured[self.format_name]))
    monkeypatch.setattr(study, "say_multiple", lambda *_: None)
    search(tmp_path, ("latency=9ms",), trials=1, epochs=1, rungs=0)
    measured["c"] = 1  # a process that joins has measured another
    search(tmp_path, ("latency=9ms",), trials=2, epochs=1, rungs=0)
    assert set(asked) == {8}
    asked.clear()
    search(tmp_path / "macs", ("macs=1M",), trials=1, epochs=1, rungs=0)  # nothing is measured
    assert set(asked) == {1}


class TestTable:
    """Latency by parts."""

    def test_parts_are_measured_once_and_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[int, ...]] = []

        def measure(module: torch.nn.Module, shape: tuple[int, ...], *_: Any) -> float:
            calls.append(tuple(shape))
            return float(sum(each.numel() for each in module.parameters()))

        monkeypatch.setattr(table, "measure", measure)
        path = tmp_path / "table.json"
        model = space.build(space.Candidate(*_toy_of(24)), "cifar", 10, 1).eval()
        first = LatencyTable.at(path, "c", 1)
        expected = first.predict(model, (1, 8, 8))
        number = len(calls)
        assert LatencyTable.at(path, "c", 1).predict(model, (1, 8, 8)) == expected
        assert len(calls) == number
        with pytest.raises(InputError, match="measured elsewhere"):
            LatencyTable.at(path, "c", 2)

    def test_what_another_process_measured_is_neither_measured_again_nor_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Any] = []

        def measure(module: torch.nn.Module, *_: Any) -> float:
            calls.append(module)
            return float(sum(each.numel() for each in module.parameters()))

        monkeypatch.setattr(table, "measure", measure)
        monkeypatch.setattr(table, "measure_in_turns", lambda modules, *_: {width: float(width) for width in modules})
        path = tmp_path / "table.json"
        one, two = (LatencyTable.at(path, "c", 1) for _ in range(2))  # both before anything is measured
        small, large = (space.build(space.Candidate(*_toy_of(width)), "cifar", 10, 1).eval() for width in (12, 24))
        expected = one.predict(small, (1, 8, 8)), one.predict(large, (1, 8, 8))
        number = len(calls)
        assert two.predict(large, (1, 8, 8)) == expected[1]
        assert two.multiple == one.multiple
        assert len(calls) == number
        widths = iter([12, 24, 36, 48, 60] * 4)

        def make() -> tuple[torch.nn.Module, tuple[int, int, int]]:
            return space.build(space.Candidate(*_toy_of(next(widths))), "cifar", 10, 1).eval(), (1, 8, 8)

        one.calibrate(iter(lambda: make, None))
        number = len(calls)
        two.calibrate(iter(()))
        assert two.errors == one.errors
        assert len(calls) == number
        assert LatencyTable.at(path, "c", 1).parts == one.parts == two.parts

    def test_the_correction_is_fitted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each part costs a millionth of its parameters and 0.5 ms outside of a network."""

        def measure(module: torch.nn.Module, *_: Any) -> float:
            return 1e-3 * sum(each.numel() for each in module.parameters()) + 0.5

        monkeypatch.setattr(table, "measure", measure)
        latencies = LatencyTable.at(tmp_path / "table.json", "c", 1)
        widths = iter([12, 24, 36, 48, 60] * 4)

        def make() -> tuple[torch.nn.Module, tuple[int, int, int]]:
            return space.build(space.Candidate(*_toy_of(next(widths))), "cifar", 10, 1).eval(), (1, 8, 8)

        latencies.calibrate(iter(lambda: make, None))
        assert latencies.per_part == pytest.approx(0.5)
        assert latencies.error < 1e-6
        again = LatencyTable.at(tmp_path / "table.json", "c", 1)
        again.calibrate(iter(()))
        assert again.per_part == latencies.per_part


def _toy_of(width: int) -> tuple[str, dict[str, Any]]:
    class Fixed:
        def suggest_int(self, *_: Any, **__: Any) -> int:
            return width

    return toy(Fixed())


def test_a_command_prints_the_latency_last(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text("import sys; print('warm 9 ms'); print('median: 2.5'); assert sys.argv[1].endswith('model.c')")
    assert time_by_command(f"{sys.executable} {script}", tmp_path / "model.c") == 2.5
    for code, told in (("print('no number')", "milliseconds"), ("import sys; sys.exit('no board')", "no board")):
        script.write_text(code)
        with pytest.raises(InputError, match=told):
            time_by_command(f"{sys.executable} {script}", tmp_path / "model.c")
    with pytest.raises(InputError, match="cannot be run"):
        time_by_command("/does/not/exist", tmp_path / "model.c")


@pytest.mark.slow  # measures in the runtime
@pytest.mark.parametrize("format_name", ["c", "onnx"])
def test_predictions_are_near_what_is_measured(format_name: str, tmp_path: Path) -> None:
    latencies = LatencyTable.at(tmp_path / "table.json", format_name, 1)
    chance = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    def make() -> tuple[torch.nn.Module, tuple[int, int, int]]:
        candidate = space.suggest(chance.ask(), ["muffnet"])
        return space.build(candidate, "cifar", 10, 3).eval(), (3, 32, 32)

    latencies.calibrate(iter(lambda: make, None))
    assert sum(map(abs, latencies.errors)) / len(latencies.errors) < 0.1
