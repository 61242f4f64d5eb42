"""Measure the page of ``compactnets web`` in Chromium: bytes loaded, and latency, planar against ONNX Runtime Web.

    python benchmarks/browser.py [--output FILE]  # FILE: recorded/browser/NAME.json

Needs Chromium, Playwright and the extras ``c`` and ``onnx``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from harness import write_record
from playwright.sync_api import Browser, Page, sync_playwright

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.deploy import export
from compactnets.environment import set_variables
from compactnets.failures import scratch_folder
from compactnets.tasks.opening import open_to_write
from compactnets.timing import spread
from compactnets.web.chromium import FLAGS, TAKE_FILE, find_chromium
from compactnets.web.server import HEADERS, Handler, serving
from compactnets.web.site import build_site

NETWORKS = ("menet_108_8x1_g3", "muffnet_x0_5", "menet_108_8x1_g3.cifar10", "muffnet_x0_5.cifar10")
ENGINES = {"planar": "c", "onnx": "onnx"}
WAIT = 120_000  # milliseconds
NOTE = (
    "Bytes are those of the answers of `compactnets web`, compressed with gzip where it does that, from an empty cache "
    "to the first result; the two example pictures are not counted. Latency: both engines run the same image in turns "
    "on one page, after warm-up, without preprocessing. The first result is timed from opening the page to the "
    "answer for an example, from an empty cache and a server on the same machine, so it shows the work and not the "
    "download. Without isolation the browser's clock has steps of 0.1 ms."
)


class Counted(Handler):
    """Counts the bytes of its answers by path."""

    sent: defaultdict[str, int] = defaultdict(int)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        Counted.sent[self.path.partition("?")[0]] += len(content)
        outputfile.write(content)


class Shared(Counted):
    """Answers as a host without the headers for threads."""

    sent_headers = {name: value for name, value in HEADERS.items() if not name.startswith("Cross-Origin")}


def kind_of(path: str) -> str:
    """Return what a file of the page is."""
    if path.startswith("/examples/"):
        return "pictures"
    if path.endswith((".bin", ".onnx")):
        return "weights"
    return "code" if path.endswith(".wasm") or path.startswith(("/assets/ort-", "/assets/onnx-")) else "page"


def wait(page: Page, *states: str) -> None:
    page.wait_for_selector(", ".join(f"body[data-state={state}]" for state in states), timeout=WAIT)
    if page.is_visible("#error"):
        raise RuntimeError(page.inner_text("#error"))


def classify(page: Page, number: int) -> dict[str, Any]:
    """Classify an example, not the same twice in a row, and return the page's result."""
    button = page.locator("#examples button").nth(number % 2)
    name = button.locator("img").get_attribute("alt")
    button.click()
    page.wait_for_function(
        "name => document.body.dataset.state == 'error' || (document.body.dataset.state == 'done' &&"
        " document.getElementById('status').textContent.startsWith(name))",
        arg=name,
        timeout=WAIT,
    )
    wait(page, "done", "error")
    found: dict[str, Any] = json.loads(page.evaluate(TAKE_FILE))
    return found


def first_visit(browser: Browser, address: str) -> tuple[dict[str, int], float]:
    """Open the page with an empty cache; return the bytes of each kind of file, and the seconds to the first result."""
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    Counted.sent.clear()
    start = time.perf_counter()
    page.goto(address)
    wait(page, "ready", "error")
    classify(page, 0)
    seconds = time.perf_counter() - start
    context.close()
    sizes: dict[str, int] = defaultdict(int)
    for path, size in Counted.sent.items():
        sizes[kind_of(path)] += size
    return dict(sizes), seconds


def in_turns(browser: Browser, address: str, name: str, rounds: int) -> dict[str, Any]:
    """Return every engine's times of one network, and its threads."""
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(address)
    wait(page, "ready", "error")
    page.select_option("#first", label=name)
    page.select_option("#second", label=f"{name} (2)")
    wait(page, "ready", "error")
    found: dict[str, Any] = {}
    for number in range(rounds):
        for network in classify(page, number)["networks"]:
            engine = network["engine"]
            key = "planar" if engine["name"] == "planar" else "onnx"
            entry = found.setdefault(key, {"threads": engine["threads"], "version": engine["version"], "runs": []})
            entry["runs"] += network["latency_ms"]["runs"]
    context.close()
    return found


def build(names: list[str], folder: Path) -> None:
    """Export every network for both engines, and write a page of each and one of all."""
    for name in names:
        model, record = open_to_write(name, CheckpointRecord, "web", None)
        for engine, format_name in ENGINES.items():
            artifact = folder / "artifacts" / engine / name
            tag = name.partition(".")[2]
            record = record.model_copy(update={"model": f"{record.model}.{tag}"}) if tag not in record.model else record
            with set_variables({"CFLAGS": "-O1"}):  # of the check on this machine, which is not what is measured
                export(model, record, format_name, artifact)
            build_site([str(artifact)], folder / "sites" / f"{name}-{engine}")
    artifacts = [str(folder / "artifacts" / engine / name) for name in names for engine in ENGINES]
    build_site(artifacts, folder / "sites" / "all")


def measure(browser: Browser, names: list[str], folder: Path, rounds: int, visits: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        row: dict[str, Any] = {"network": name, "engines": {}, "turns": []}
        seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        for _ in range(visits):
            for engine in ENGINES:
                with serving(folder / "sites" / f"{name}-{engine}", Counted) as address:
                    sizes, took = first_visit(browser, address)
                seconds[engine].append(took)
                row["engines"][engine] = {"bytes": sizes}
        for engine in ENGINES:
            row["engines"][engine]["first_result_seconds"] = spread(seconds[engine])
        for isolated in (False, True):
            with serving(folder / "sites" / "all", Counted if isolated else Shared) as address:
                found = in_turns(browser, address, name, rounds)
            times = {
                engine: {"threads": each["threads"], "milliseconds": spread(each["runs"])}
                for engine, each in found.items()
            }
            row["turns"].append({"isolated": isolated, "engines": times})
            row["onnxruntime_web"] = found["onnx"]["version"]
        rows.append(row)
        print(describe(row), flush=True)
    return rows


def describe(row: dict[str, Any]) -> str:
    """Return a line for a person."""
    sizes = [f"{engine} {each['bytes']}" for engine, each in row["engines"].items()]
    times = [
        ", ".join(
            f"{engine} {each['milliseconds']['median']:.2f} ms ({each['threads']} threads)"
            for engine, each in turn["engines"].items()
        )
        for turn in row["turns"]
    ]
    return f"{row['network']}: {'; '.join(sizes + times)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=8, help="pictures classified, of up to 12 runs each")
    parser.add_argument("--visits", type=int, default=5, help="first visits, with an empty cache")
    parser.add_argument("--output", type=Path, help="JSON record to write")
    arguments = parser.parse_args()
    with scratch_folder() as folder, sync_playwright() as playwright:
        build(arguments.networks, folder)
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        rows = measure(browser, arguments.networks, folder, arguments.rounds, arguments.visits)
        name = f"Chromium {browser.version}"
        browser.close()
    if arguments.output:
        settings = {"rounds": arguments.rounds, "visits": arguments.visits}
        content = {"note": NOTE, "browser": name, "settings": settings, "rows": rows}
        write_record(arguments.output, torch.device("cpu"), content)


if __name__ == "__main__":
    main()
