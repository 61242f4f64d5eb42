"""The artifact: what is compiled, what is refused, and which compiler does it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets.data import Preprocess
from compactnets.deploy import FORMATS, load_artifact
from compactnets.deploy.planar.build import find_compiler
from compactnets.errors import InputError

from ..conftest import Make
from ..helpers import SIZE, tiny_network
from .helpers import needs_compiler


def test_source_that_was_changed_is_not_compiled(artifact: Make) -> None:
    """It would run with all rights of whoever opens the artifact."""
    folder = artifact("c")
    for name in ("model.c", "model.h"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text + "/* and more */\n", encoding="utf-8")
        with pytest.raises(InputError, match=name):
            FORMATS["c"].open(folder / "model.c")
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda program: program.update(name='x"); system("'),
        lambda program: program["graph"]["operations"][0].update(inputs=[5000]),
        lambda program: program["graph"]["operations"][1].update(outputs=10**9),
        lambda program: program["graph"]["operations"][0].update(first="relu); abort("),
        lambda program: program["graph"].update(results=[10**6]),
        lambda program: program.update(mean=[1.0]),
        lambda program: program["graph"].update(height=10**6, width=10**6),
    ],
)
def test_a_description_that_fits_nothing_is_one_line(artifact: Make, change: object) -> None:
    folder = artifact("c")
    program = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    change(program)  # type: ignore[operator]
    (folder / "model.json").write_text(json.dumps(program), encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.json") as caught:
        FORMATS["c"].open(folder / "model.c")
    assert "\n" not in str(caught.value)


def test_weights_of_another_length_are_refused(artifact: Make) -> None:
    folder = artifact("c")
    weights = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(weights[:-64])
    with pytest.raises(InputError, match=f"{len(weights) - 64:,} bytes, expected {len(weights):,}"):
        FORMATS["c"].open(folder / "model.c")


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CC", "no-such-cc -O2")
    with pytest.raises(InputError, match="no-such-cc"):
        find_compiler()
    monkeypatch.delenv("CC")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"compactnets\[c\]"):
        find_compiler()


def test_images_in_a_batch_and_on_threads_are_the_same(artifact: Make) -> None:
    run = FORMATS["c"].open(artifact("c") / "model.c", 3)
    images = np.random.default_rng(0).standard_normal((7, 3, SIZE, SIZE), np.float32)
    together = run(images)
    assert np.array_equal(together, np.concatenate([run(images[index : index + 1]) for index in range(7)]))
    with torch.inference_mode():
        expected = tiny_network()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)


def test_the_example_classifies_a_file(artifact: Make, tmp_path: Path) -> None:
    """As the README of the artifact says, and as the package itself does."""
    needs_compiler()
    folder = artifact("c")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((90, 61), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "image.ppm")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    command = next(line.strip() for line in readme.splitlines() if line.strip().startswith("cc "))
    done = subprocess.run(
        command.replace("cc", " ".join(find_compiler()), 1).replace("-O3", "-O1 -Wall -Wextra -Werror"),
        cwd=folder,
        shell=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    run = ["./example", "model.bin", str(tmp_path / "image.ppm")]
    lines = subprocess.run(run, cwd=folder, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    found = {line.split()[2]: float(line.split()[0]) / 100 for line in lines}
    assert len(found) == 5
    loaded = load_artifact(folder)
    prepared = Preprocess.from_dict(loaded.record.network.preprocess)(picture)
    expected = loaded(prepared[None]).softmax(1)[0]
    labels = loaded.record.network.class_labels
    assert labels is not None
    assert lines[0].split()[2] == labels[int(expected.argmax())]
    for label, probability in found.items():
        assert abs(probability - float(expected[labels.index(label)])) < 0.02
