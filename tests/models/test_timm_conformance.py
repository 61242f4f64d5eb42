"""timm's own conformance suite, ``tests/test_models.py`` of the installed version, over every registered name.

The suite is no part of timm's wheel and is not kept here. It comes from the folder that ``$TIMM_SOURCE`` names (a
checkout or an unpacked sdist of timm, with ``tests/test_models.py`` inside), else from the sdist of the installed
version, which pip downloads; without either the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import timm

from compactnets.models.pretrained import find_weights
from compactnets.models.registry import FAMILIES

VARIABLE = "TIMM_SOURCE"
MINUTES = 60
# timm's list of modules whose networks have forward_intermediates; ours have it, and are tested with them
BEGIN = "FEAT_INTER_FILTERS = ["
# of what timm runs on every name, the part that all its versions have; TorchScript is left out: torch deprecates it,
# and our networks do not claim it
TESTS = {"test_model_forward", "test_model_backward", "test_model_default_cfgs", "test_model_forward_features"}


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite in a folder of its own, where nothing of this project configures it."""
    folder = tmp_path_factory.mktemp("timm")
    text = _source(folder)
    assert text.count(BEGIN) == 1
    modules = ", ".join(f"'{module}'" for module in dict.fromkeys(FAMILIES.values()))
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    file = folder / "test_models.py"
    file.write_text(text.replace(BEGIN, f"{BEGIN}{modules}, "), encoding="utf-8")
    return file


def _source(folder: Path) -> str:
    if own := os.environ.get(VARIABLE):
        return (Path(own) / "tests" / "test_models.py").read_text(encoding="utf-8")
    wanted = f"timm=={timm.__version__}"
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-binary",
        ":all:",
        "--no-deps",
        "--dest",
        str(folder),
        wanted,
    ]
    try:
        done = subprocess.run(download, capture_output=True, text=True, timeout=300, check=False)
        reason = done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        reason = "no answer within five minutes"
    for archive in folder.glob("timm-*.tar.gz"):
        with tarfile.open(archive) as files:
            for member in files:
                if member.name.endswith("/tests/test_models.py") and (file := files.extractfile(member)):
                    return file.read().decode("utf-8")
        reason = "its sdist has no tests/test_models.py"
    pytest.skip(f"timm's tests are not here: pip got no {wanted} ({reason}); ${VARIABLE} may name its source")


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
@pytest.mark.parametrize("family", dict.fromkeys(FAMILIES.values()))
def test_timms_own_suite(family: str, suite: Path, tmp_path: Path) -> None:
    names = [name for name, module in FAMILIES.items() if module == family]
    tagged = [weights.name for weights in find_weights().values() if weights.model in names]
    # -k cannot hold names with dots; a name's tags go with it
    chosen = f"({' or '.join(names)}) and not torchscript"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "compactnets.models",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:warnings",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")} | {
        "TIMEOUT": "600",  # seconds of one of timm's tests, on any machine
        "HF_HUB_OFFLINE": "1",
    }
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [*command, "-k", chosen, f"--junitxml={report}", suite.name],
        cwd=suite.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    ran: dict[str, set[str]] = {name: set() for name in [*names, *tagged]}
    for case in ElementTree.parse(report).iter("testcase"):
        test, _, identifier = case.attrib["name"].partition("[")
        name = next((part for part in identifier.rstrip("]").split("-") if part in ran), None)
        assert not list(case), f"{case.attrib['name']} did not run: {ElementTree.tostring(case, encoding='unicode')}"
        assert name is not None, case.attrib["name"]
        ran[name].add(test)
    assert all(ran[name] >= TESTS for name in names), ran
    assert all("test_model_default_cfgs" in ran[name] for name in tagged), ran
