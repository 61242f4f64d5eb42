"""The benchmark's figures, and what is read of them."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from compactnets.deploy.record import NAME, ArtifactRecord, read_artifact
from compactnets.deploy.subject import Classifier
from compactnets.errors import InputError, LimitError
from compactnets.latency import benchmark as latency
from compactnets.latency.benchmark import (
    Entry,
    Variant,
    _prepare,
    _read_if_fits,
    benchmark,
    measure,
    parse_format,
)
from compactnets.latency.results import (
    describe_change,
    describe_operators,
    draw,
    fastest,
    formats,
    moved,
    read_results,
    show,
    write_results,
)
from compactnets.tasks.opening import open_subject
from compactnets.timing import spread
from compactnets.training.checkpoint import save_checkpoint

from ..deploy.conftest import Make
from ..deploy.helpers import SIZE, opened, tiny_network, tiny_record
from .helpers import results, row


@pytest.mark.slow
def test_a_measurement_of_real_networks(tmp_path: Path) -> None:
    """Eager PyTorch and an exported program; nothing beats the limit; artifacts are used again."""
    networks = ["muffnet_x0_5", "muffnet_x1_5"]
    settings: dict[str, Any] = {"size": 96, "rounds": 5, "calls": 2, "artifacts": tmp_path}
    measured = benchmark(networks, ["eager", "torch"], **settings)
    rows = {(row["network"], row["format"]): row for row in measured["rows"]}
    assert list(rows) == [(network, form) for network in networks for form in ("eager", "torch")]
    for form in ("eager", "torch"):
        small, large = (rows[network, form] for network in networks)
        assert large["milliseconds"]["p90"] > small["milliseconds"]["p10"] > 0
        assert large["macs"] > small["macs"]
        assert small["milliseconds"]["n"] == 10
        assert small["times_limit"] > 1
        assert small["input"] == [1, 3, 96, 96]
    assert rows["muffnet_x0_5", "torch"]["bytes"] > 1e6
    assert rows["muffnet_x0_5", "torch"]["relative_difference"] < 1e-5
    assert measured["limit_gflops"] > 1
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["muffnet_x0_5-torch-96x96-1", "muffnet_x1_5-torch-96x96-1"]
    times = [path.stat().st_mtime_ns for path in tmp_path.rglob("model.pt2")]
    again = benchmark(networks[:1], ["torch"], **{**settings, "rounds": 1, "calls": 1})
    assert len(again["rows"]) == 1
    assert times == [path.stat().st_mtime_ns for path in tmp_path.rglob("model.pt2")]


def test_an_artifact_is_used_again_for_the_same_weights_and_settings(artifact: Make) -> None:
    """The name of the folder says neither."""
    folder = artifact("torch")

    def fits(model: nn.Module, variant: Variant = Variant("torch"), size: int = SIZE, **change: Any) -> bool:  # noqa: B008
        subject = Classifier(model, tiny_record().model_copy(update=change)).resized((size, size))
        return _read_if_fits(folder, subject, variant, 1) is not None

    assert fits(tiny_network())
    other = tiny_network()
    next(other.parameters()).data[0] += 1e-6
    assert not fits(other)
    buffers = tiny_network()
    next(buffers.buffers())[0] += 1
    assert not fits(buffers)
    assert not fits(tiny_network(), size=32)
    assert not fits(tiny_network(), Variant("torch", lanes=16))
    assert not fits(tiny_network(), Variant("onnx"))
    assert not fits(tiny_network(), source="another")
    record = json.loads((folder / NAME).read_text())
    for key, value in (("precision", "int8"), ("weights", ""), ("versions", {})):
        (folder / NAME).write_text(json.dumps(record | {key: value}))
        assert not fits(tiny_network())
    record["verification"]["tolerance"] = 1.0
    (folder / NAME).write_text(json.dumps(record))
    assert not fits(tiny_network())


class Exploding(nn.Module):
    def forward(self, x: Any) -> Any:
        raise AssertionError("the input is 224")


def test_one_network_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its library raises, it is named under ``failed``; the rest goes on to be measured."""
    monkeypatch.setattr(
        latency,
        "open_subject",
        lambda name, *_: Classifier(Exploding() if name == "bad" else tiny_network(), tiny_record()),
    )
    measured: list[Any] = []

    def note(entries: Any, **_: Any) -> dict[str, Any]:
        measured.extend(entries)
        return {"rows": [], "failed": [{"network": "late", "format": "onnx", "reason": "crashed"}]}

    monkeypatch.setattr(latency, "measure", note)
    found = benchmark(["bad", "good"], ["eager"], artifacts=tmp_path)
    assert [entry.network for entry in measured] == ["good"]
    reasons = {failure["network"]: failure["reason"] for failure in found["failed"]}
    assert list(reasons) == ["bad", "late"]
    assert "the input is 224" in reasons["bad"]


@pytest.mark.slow
def test_numbers_of_threads_take_turns(tmp_path: Path) -> None:
    """Each is a row of its own, against the limits of its own number of threads."""
    settings: dict[str, Any] = {"size": 96, "rounds": 2, "calls": 2, "artifacts": tmp_path}
    measured = benchmark(["muffnet_x0_5"], ["eager", "torch"], threads=[1, 2, 1], **settings)
    assert measured["settings"]["threads"] == [1, 2]
    assert [(row["format"], row["threads"]) for row in measured["rows"]] == [
        ("eager", 1), ("eager", 2), ("torch", 1), ("torch", 2)
    ]  # fmt: skip
    one, two, *_ = measured["rows"]
    assert one["limit_milliseconds"] != two["limit_milliseconds"]  # each has limits of its own
    assert formats(measured)[:2] == ["eager, 1 thread", "eager, 2 threads"]
    assert formats(measured | {"settings": {"threads": 1, "batch_size": 1}}) == ["eager", "eager", "torch", "torch"]
    assert [change["ratio"] for change in moved(measured, measured)] == [1.0] * 4


@pytest.mark.slow
def test_batches_take_turns(tmp_path: Path) -> None:
    """Each is a row of its own with its rate; a format that takes any batch is exported once."""
    settings: dict[str, Any] = {"size": 64, "rounds": 2, "calls": 2, "artifacts": tmp_path}
    measured = benchmark(["muffnet_x0_5"], ["eager", "torch", "executorch"], batch_size=[1, 4], **settings)
    assert measured["settings"]["batch_size"] == [1, 4]
    for each in measured["rows"]:
        assert each["images_per_second"] == pytest.approx(1e3 * each["input"][0] / each["milliseconds"]["median"])
    assert formats(measured)[:4] == ["eager, batch 1", "eager, batch 4", "torch, batch 1", "torch, batch 4"]
    assert len(list(tmp_path.glob("*-torch-*"))) == 1
    assert len(list(tmp_path.glob("*-executorch-*"))) == 2
    assert [change["ratio"] for change in moved(measured, measured)] == [1.0] * len(measured["rows"])


def test_several_batches_are_shown_with_their_rates(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row("a", "onnx", batch + 1.0), "input": [batch, 3, 32, 32]} for batch in (1, 8)]
    measured = results(
        *({**each, "images_per_second": each["input"][0] / each["milliseconds"]["median"]} for each in rows)
    )
    measured["settings"]["batch_size"] = [1, 8]
    show(measured)
    printed = capsys.readouterr().out
    assert "batch 1, 8" in printed
    assert "images/s" in printed
    assert "onnx, batch 8" in printed


@pytest.mark.slow
def test_a_process_that_crashes_is_left_out(tmp_path: Path) -> None:
    """A file that its runtime cannot load, and one whose process ends, beside one that is measured."""
    torch_file, onnx_file = tmp_path / "a.pt2", tmp_path / "a.onnx"
    torch_file.write_bytes(b"nothing")
    onnx_file.write_bytes(b"nothing")
    shape = (1, 3, 32, 32)
    entries = [
        Entry("broken", Variant("torch"), torch_file, shape, 1000, 10, 7, 0.0),
        Entry("muffnet_x0_5", Variant("eager"), None, shape, 1000, 10, None, None),
        Entry("muffnet_x9", Variant("eager"), None, shape, 1000, 10, None, None),
    ]
    found = measure(entries, rounds=2, calls=1)
    assert [row["network"] for row in found["rows"]] == ["muffnet_x0_5"]
    assert [failure["network"] for failure in found["failed"]] == ["broken", "muffnet_x9"]
    assert found["rows"][0]["milliseconds"]["n"] == 2
    with pytest.raises(InputError, match="nothing could be measured"):
        measure(entries[:1], rounds=1, calls=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("early", [True, False])
def test_a_signal_keeps_whole_turns(tmp_path: Path, name: str, code: int, early: bool) -> None:
    """Sent to all processes of the terminal: one line, the exit code of the signal, and the turns so far."""
    command = [sys.executable, "-m", "compactnets", "benchmark", "muffnet_x0_5", "--formats", "eager", "--size", "32"]
    command += ["--rounds", "1000000", "--calls", "1", "--output", str(tmp_path / "r.json")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("preparing" if early else "measuring"):
            break
    os.killpg(process.pid, getattr(signal, name)) if name == "SIGINT" else process.terminate()
    rest = process.stderr.read().splitlines()
    assert process.wait() == code
    assert "Traceback" not in "".join([*lines, *rest])
    assert len(rest) == (0 if early and name == "SIGTERM" else 1), rest
    if early:
        assert not (tmp_path / "r.json").exists()
        return
    assert rest[0].startswith("compactnets: interrupted after")
    kept = read_results(tmp_path / "r.json")
    assert kept["settings"]["rounds"] == kept["rows"][0]["milliseconds"]["n"] > 0


@pytest.mark.slow
def test_what_cannot_be_exported_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(subject: Classifier, form: str, *rest: Any, **options: Any) -> None:
        raise LimitError("it differs")

    monkeypatch.setattr(latency, "export_subject", refuse)
    settings: dict[str, Any] = {"size": 32, "rounds": 1, "calls": 1, "artifacts": tmp_path}
    measured = benchmark(["muffnet_x0_5"], ["torch", "eager"], **settings)
    assert [row["format"] for row in measured["rows"]] == ["eager"]
    assert measured["failed"] == [{"network": "muffnet_x0_5", "format": "torch", "reason": "it differs"}]
    with pytest.raises(InputError, match="nothing could be measured: it differs"):
        benchmark(["muffnet_x0_5"], ["torch"], **settings)


def test_every_name_is_looked_at_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "export_subject", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(InputError, match="no network is called 'muffnet_x9'|'muffnet_x9'"):
        benchmark(["muffnet_x0_5", "muffnet_x9"], ["torch"], artifacts=tmp_path)


def test_accuracy_is_drawn_where_it_is_known_of_all(tmp_path: Path) -> None:
    rows = [row("net_a", "onnx", 10, 2000) | {"top1_percent": 90.0}, row("net_b", "onnx", 4) | {"top1_percent": 80.0}]
    draw(results(*rows), tmp_path / "known.svg")
    draw(results(rows[0], rows[1] | {"top1_percent": None}), tmp_path / "unknown.svg")
    known, unknown = ((tmp_path / name).read_text() for name in ("known.svg", "unknown.svg"))
    assert ">top-1, %</text>" in known
    assert ">limit</text>" not in known
    assert ">multiply-adds, M</text>" in unknown
    assert ">limit</text>" in unknown


def test_operators_in_words() -> None:
    operators = [{"kind": kind, "milliseconds": time, "count": 1} for kind, time in (("a", 3.0), ("b", 1.0))]
    assert describe_operators(operators) == "a 3.00 ms (75 %), b 1.00 ms (25 %)"
    assert describe_operators(operators, kinds=1) == "a 3.00 ms (75 %), others 1.00 ms"


def test_the_fastest_format_of_each() -> None:
    found = fastest(results(row("a", "onnx", 3), row("a", "torch", 2), row("b", "onnx", 9)))
    assert {network: entry["format"] for network, entry in found.items()} == {"a": "torch", "b": "onnx"}


def test_moved_beyond_noise() -> None:
    before = results(row("a", "onnx", 10), row("b", "onnx", 10), row("c", "onnx", 10))
    after = copy.deepcopy(results(row("a", "onnx", 10.5), row("b", "onnx", 8), row("b", "torch", 8)))
    changes = moved(before, after)
    assert [(change["network"], change["beyond_noise"]) for change in changes] == [("a", False), ("b", True)]
    assert describe_change(changes[1]) == "b onnx: 10.00 -> 8.00 ms, 0.80x, beyond noise"


def test_written_read_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = results(row("net_a", "onnx", 10, 2000), row("net_a", "eager", 30, 2000), row("net_b", "onnx", 4))
    write_results(content, tmp_path / "deep" / "r.json")
    assert read_results(tmp_path / "deep" / "r.json")["rows"] == content["rows"]
    draw(content, tmp_path / "r.svg")
    text = (tmp_path / "r.svg").read_text()
    assert all(f">{label}</text>" in text for label in ("net_a", "net_b", "onnx", "eager", "limit"))
    draw(content, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    show(content)
    out = capsys.readouterr().out
    assert "2.0 MB" in out
    assert "100 GFLOP/s" in out
    with pytest.raises(InputError, match="cannot write"):
        draw(content, tmp_path / "r.docx")


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{}]}', '{"rows": [1]}', "{"])
def test_other_files_are_not_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r\.json is not"):
        read_results(tmp_path / "r.json")
    with pytest.raises(InputError, match="cannot read"):
        read_results(tmp_path / "nowhere.json")


def test_formats_and_precisions() -> None:
    assert parse_format("onnx") == Variant("onnx")
    assert parse_format("openvino@bf16") == Variant("openvino", "bf16")
    assert parse_format("onnx@lanes16") == Variant("onnx", lanes=16)
    for text in ("eager", "onnx", "openvino@bf16", "onnx@lanes8"):
        assert parse_format(text).label == text
    with pytest.raises(InputError, match="onnx runs in float32, float16, lanes16, found 'bf16'"):
        parse_format("onnx@bf16")
    with pytest.raises(InputError, match="openvino runs in float32, float16, bf16, found 'lanes16'"):
        parse_format("openvino@lanes16")
    with pytest.raises(InputError, match="found 'lanes0'"):
        parse_format("onnx@lanes0")
    with pytest.raises(InputError, match="eager runs in float32, found 'int8'"):
        parse_format("eager@int8")
    with pytest.raises(InputError, match="no format is called 'tflite'"):
        parse_format("tflite")


def test_spread_gives_measured_values() -> None:
    assert spread([1, 2, 3, 4, 5]) == {"median": 3, "p10": 1, "p90": 5, "n": 5}
    assert spread([1, 2, 3, 4])["median"] == 2.5


def test_networks_of_other_libraries() -> None:
    model, record = opened("timm:mobilenetv3_small_100")
    assert record.model == "timm:mobilenetv3_small_100"
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_542_856
    with pytest.raises(InputError, match="timm has no network 'mobilenetv3_smal'; did you mean"):
        opened("timm:mobilenetv3_smal")
    with pytest.raises(InputError, match="timm:NAME or pytorchcv:NAME, found 'keras:x'"):
        opened("keras:x")
    pytest.importorskip("pytorchcv")
    with pytest.raises(InputError, match="pytorchcv has no network 'nothing'"):
        opened("pytorchcv:nothing")


def test_json_has_no_objects_of_python(tmp_path: Path) -> None:
    content = results(row("a", "onnx", 1.5))
    write_results(content, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["command"][0] == "compactnets"


@pytest.mark.slow
def test_checkpoints_of_one_name_do_not_share_an_artifact(tmp_path: Path) -> None:
    """runs/a/best.safetensors and runs/b/best.safetensors are two networks."""
    model, record = opened("shufflenet_g3_x0_25", {"stem": "cifar"})
    paths = []
    for source in ("a", "b"):
        paths.append(tmp_path / source / "best.safetensors")
        save_checkpoint(paths[-1], model.state_dict(), record.model_copy(update={"source": source}))
    kept_in = tmp_path / "kept"
    entries = [
        _prepare(str(path), open_subject(str(path), "benchmark"), Variant("torch"), [1], kept_in)[0] for path in paths
    ]
    kept = [read_artifact(entry.path, ArtifactRecord)[0].network.source for entry in entries if entry.path]
    assert kept == ["a", "b"]
