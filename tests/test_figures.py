"""The figures of README and docs are those of the records: computed from them, and looked for in the text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from compactnets.detection.cost import detector_cost, planned_record
from compactnets.papers.ablation import contrast, describe, summarize
from compactnets.papers.cost import count_network, measure_rows
from compactnets.papers.stated import load_paper, stated_rows
from compactnets.recorded import load_results

ROOT = Path(__file__).parents[1]
RUNTIMES = ("onnx", "openvino", "ncnn", "executorch")  # in float32
PAIRS = (("menet_108_8x1_g3", "muffnet_x0_5"), ("menet_228_12x1_g3", "muffnet_x1_0"))  # of equal multiply-adds


def text_of(name: str) -> str:
    """The words of a page, however its lines are broken, without the marks of links and bold print."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return " ".join(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).replace("*", "").split())


def times(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["network"], row["format"]): row for row in load_results("latency")[name]["rows"]}


def table(page: str, section: str, column: str) -> list[list[str]]:
    """Return the cells of the table of a page that has this column, in a section."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = text.partition(f"| {column} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def milliseconds(row: dict[str, Any]) -> float:
    return row["milliseconds"]["median"]


def speed(name: str) -> dict[str, dict[str, Any]]:
    return {row["network"]: row for row in load_results("speed")[name]["rows"]}


def rate(row: dict[str, Any]) -> float:
    return row["images_per_step"] / row["our_seconds"]["median"]


def bccd(detector: str, begun: bool, anchors: str = "given", side: int = 600) -> dict[str, Any]:
    (run,) = (
        run
        for run in load_results("detection")["bccd"]["runs"]
        if run["detector"] == detector
        and bool(run["init"]) is begun
        and run["recipe"].get("anchors", "given") == anchors
        and (detector == "ssd" or run["recipe"]["faster_rcnn"]["shorter_side"] == side)
    )
    return run


def on_test(*run: Any, **which: Any) -> float:
    return bccd(*run, **which)["test"]["voc07"]


def on_val(*run: Any, **which: Any) -> float:
    """Of the best epoch, which the record of a run says of the one that was kept."""
    return max(epoch["voc07_percent"] for epoch in bccd(*run, **which)["epochs"] if epoch.get("voc07_percent"))


def int8(name: str) -> dict[str, Any]:
    return load_results("int8")[name]["evaluation"]


SHIPPED = {"muffnet_x0_5": "cifar10-fast-fourth", "menet_108_8x1_g3": "cifar10-modern"}  # where the weights' runs are


def shipped(name: str) -> dict[str, Any]:
    (run,) = (run for run in load_results("training")[SHIPPED[name]]["runs"] if run["model"] == name)
    return run


def top1(name: str) -> float:
    return shipped(name)["epochs"][-1]["top1_percent"]


def span(values: list[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def readme() -> list[str]:
    ours, theirs = top1("muffnet_x0_5"), top1("menet_108_8x1_g3")
    chain = ("cifar10-fast", "cifar10-fast-second", SHIPPED["muffnet_x0_5"])  # each went on from the one before
    first, second, last = (len(load_results("training")[name]["runs"][0]["epochs"]) for name in chain)
    return [
        f"{ours:.1f} % after {first}, {second} and {last} epochs",
        f"`menet_108_8x1_g3.cifar10` ({theirs:.1f} %",
    ]


def choosing() -> list[str]:
    found = times("menet") | times("muffnet")
    ratios = {
        (one, runtime): milliseconds(found[one, runtime]) / milliseconds(found[other, runtime])
        for one, other in PAIRS
        for runtime in RUNTIMES
    }
    steady = times("steady")
    ratios |= {
        (one, f"{runtime}, steady"): milliseconds(steady[one, runtime]) / milliseconds(steady[other, runtime])
        for one, other in PAIRS
        for runtime in RUNTIMES
    }
    assert min(ratios.values()) > 1, "MuffNet is the faster of the two in every runtime"
    table_6, table_iv = load_paper("muffnet").table("6").rows, load_paper("menet").table("IV").rows
    stated = {row.model: row.top1 for row in (*table_iv, *table_6) if row.source == "own"}
    best = [f"MuffNet {size}, {stated['muffnet_x' + size.replace('.', '_')]:.1f} %" for size in ("0.5", "1.0", "1.5")]
    int8_times = {
        form: [milliseconds(row) for row in load_results("int8")[f"menet_108_8x1_g3-{form}"]["latency"]["rows"]]
        for form in ("c", "onnx", "openvino", "executorch")
    }
    shares = {form: times[1] / times[0] for form, times in int8_times.items()}
    best_other = min(times[1] for form, times in int8_times.items() if form in ("onnx", "openvino"))  # in one session
    gains = [on_test(each, begun=True) - on_test(each, begun=False) for each in ("faster_rcnn", "ssd")]
    peers = times("peers")
    timm = json.loads((ROOT / "benchmarks" / "timm_imagenet.json").read_text(encoding="utf-8"))
    top1 = {row["network"]: row["top1_percent"] for row in timm["rows"]}
    widths = {row["format"]: row for row in load_results("latency_table")["c-onnx"]["rows"]}
    assert widths["c"]["multiple"] == 1, "docs/choosing.md says that c likes no multiple"
    aligned = {each["multiple"]: each["milliseconds"] for each in widths["onnx"]["learned"]}
    gain = aligned[1] / aligned[8]
    four, lite = "timm:mobilenetv4_conv_small", "timm:efficientnet_lite0"
    lite_ms = min(milliseconds(row) for (name, _), row in peers.items() if name == lite)
    search = load_results("search")["cifar10-c"]
    (named,) = (each for each in search["finalists"] if each["compared"])
    best_found, proxies = search["chosen"], load_results("zero_cost")["cifar10-c"]
    milli = [each["costs"]["latency"] for each in (best_found, named)]
    found_in_onnx = load_results("search")["cifar10-onnx"]
    in_onnx = [found_in_onnx["chosen"], *(each for each in found_in_onnx["finalists"] if each["compared"])]
    near = max((each for each in found_in_onnx["finalists"] if not each["compared"]), key=lambda each: each["top1"])
    assert near["top1"] < in_onnx[1]["top1"]
    again = load_results("ablation")["cifar10-search"]["rows"]
    named_again, chosen_again = (summarize(row) for row in again)
    differs = contrast(again[1], again[0])
    assert named_again is not None
    assert chosen_again is not None
    assert differs is not None
    assert differs.low < 0 < differs.high, "docs/choosing.md says that nobody can tell"
    told = {(row["score"], row["epochs"]): row["spearman"] for row in proxies["rows"]}
    assert max(told, key=lambda each: told[each]) == ("synflow", 2)
    assert sorted((told[each] for each in told if each[1] == 1), reverse=True)[:2] == [
        told["synflow", 1],
        told["macs", 1],
    ]
    return [
        f"takes {milli[0]:.3f} ms where muffnet_x0_5 takes {milli[1]:.3f}, {milli[1] / milli[0]:.2f} times as fast, "
        f"with {best_found['top1']:.2f} % of the held-out images right against {named['top1']:.2f} %",
        f"takes {in_onnx[0]['costs']['latency']:.3f} ms where muffnet_x0_5 takes {in_onnx[1]['costs']['latency']:.3f},",
        f"with {in_onnx[0]['top1']:.2f} % against {in_onnx[1]['top1']:.2f} %; one that takes "
        f"{near['costs']['latency']:.3f} ms has {near['top1']:.2f} %",
        f"muffnet_x0_5 has {named_again[0]:.2f} ± {named_again[1]:.2f} % of the test images",
        f"the chosen network {chosen_again[0]:.2f} ± {chosen_again[1]:.2f} %",
        f"a difference of {differs.difference:+.2f} points ({differs.low:+.2f} to {differs.high:+.2f}",
        f"{told['synflow', 1]:.2f} for synflow and {told['macs', 1]:.2f} for plain multiply-adds",
        f"{told['synflow', 2]:.2f} and {told['macs', 2]:.2f}",
        f"predicted whole networks within {100 * max(map(abs, search['latency_errors'])):.1f} %",
        f"(`{four}`) has {top1[four]:.1f} % and takes {milliseconds(peers[four, 'onnx']):.1f} ms in ONNX",
        f"has {stated['muffnet_x1_5']:.1f} % in its paper and takes {milliseconds(peers['muffnet_x1_5', 'c']):.1f} ms",
        f"EfficientNet-Lite0 has {top1[lite]:.1f} % and takes {lite_ms:.1f} ms",
        f"MuffNet 1.0 takes {milliseconds(peers['muffnet_x1_0', 'c']):.1f} ms with {stated['muffnet_x1_0']:.1f} %",
        f"MuffNet 0.5 {milliseconds(peers['muffnet_x0_5', 'c']):.1f} ms with {stated['muffnet_x0_5']:.1f} %",
        f"At about 40 M, MENet takes {ratios['menet_108_8x1_g3', 'onnx']:.2f} times as long as MuffNet in ONNX Runtime",
        f"`onnx` likes {widths['onnx']['multiple']}: the M learned on CIFAR-10 runs {gain:.1f} times",
        *best,
        f"MENet, {stated['menet_456_24x1_g3']:.1f} %",
        f"worth {gains[0]:.0f} points of Faster R-CNN and {gains[1]:.1f} of SSD512",
        f"takes {shares.pop('c'):.2f} times as long as float with int8 in C, and {span([*shares.values()], 2)} times",
        f"{int8_times['c'][1]:.2f} ms, where OpenVINO's int8 took {best_other:.2f}",
    ]


def detection() -> list[str]:
    both = [on_test("faster_rcnn", True), on_test("ssd", True)]
    small = on_test("faster_rcnn", True, side=480)
    # those with fitted anchors shared their cores with other work
    alone = [r for r in load_results("detection")["bccd"]["runs"] if r["recipe"].get("anchors", "given") == "given"]
    assert all(run["epochs"][-1]["seconds"] < 2 * 3600 for run in alone)
    gap, other = both[0] - small, on_val("faster_rcnn", True, side=480) - on_val("faster_rcnn", True)
    return [
        f"a VOC 2007 mAP of {min(both):.0f} to {max(both):.0f} % on BCCD's 72 test images",
        f"Faster R-CNN reaches {on_test('faster_rcnn', False):.1f} % and SSD512 {on_test('ssd', False):.1f} %",
        f"differ by {gap:.1f} points on test and by {other:.1f} the other way on val",
        f"SSD512 has {on_test('ssd', True, 'auto'):.1f} % on test and {on_val('ssd', True, 'auto'):.1f} % on val, "
        f"against {on_test('ssd', True):.1f} and {on_val('ssd', True):.1f} %",
        f"Faster R-CNN has {on_test('faster_rcnn', True, 'auto'):.1f} and {on_val('faster_rcnn', True, 'auto'):.1f} %, "
        f"against {on_test('faster_rcnn', True):.1f} and {on_val('faster_rcnn', True):.1f} %",
    ]


def quantisers() -> list[str]:
    found, control, muffnet = (
        {row["method"]: mean(draw["drop_points"] for draw in row["draws"]) for row in record["rows"]}
        for record in (
            load_results("int8_methods")[name]
            for name in ("menet_108_8x1_g3-imagenet", "menet_108_8x1_g3-control", "muffnet_x0_5-fresh")
        )
    )
    records = {name: each for name, each in load_results("int8_methods").items() if len(each["rows"][0]["draws"]) == 5}
    ways = [row["draws"] for each in records.values() for row in each["rows"] if row["method"] in ("ours", "ours (c)")]
    assert (len(records), sum("fresh" in name for name in records)) == (6, 3)
    lost = [[draw["drop_points"] for draw in draws] for draws in ways]

    def seconds(controlled: bool) -> tuple[float, float]:
        rows = [
            row
            for row in load_results("int8_methods")["menet_108_8x1_g3-control"]["rows"]
            if row["method"].startswith("nncf") and ("control" in row["method"]) == controlled
        ]
        return min(d["seconds"] for r in rows for d in r["draws"]), max(d["seconds"] for r in rows for d in r["draws"])

    return [
        f"loses {max(map(mean, lost)):.2f} points at most, mean of five draws",
        f"may lose {max(map(max, lost)):.1f} or win {-min(map(min, lost)):.1f} in C",
        f"| `quantize` | {found['ours']:+.2f} | {found['ours (openvino)']:+.2f} |",
        f"without steps 1, 3 and 4 | {found['ours, ranges only']:+.2f} | |",
        f"| NNCF | {found['nncf']:+.2f} | {found['nncf (openvino)']:+.2f} |",
        f"`Percentile` | {found['onnxruntime, percentile']:+.2f} | |",
        f"`MinMax` | {found['onnxruntime, minmax']:+.2f} | |",
        f"| NNCF with accuracy control | {control['nncf, accuracy control']:+.2f} | "
        f"{control['nncf, accuracy control (openvino)']:+.2f} |",
        f"`Entropy` | {control['onnxruntime, entropy']:+.2f} | |",
        "it took {:.0f} to {:.0f} seconds, without it {:.0f} to {:.0f}".format(*seconds(True), *seconds(False)),
        f"every way lost at most {max(muffnet.values()):.2f} points",
        *quantised_times(),
    ]


def quantised_times() -> list[str]:
    ways = {
        "ours (c)": "| C | `quantize` |",
        "ours": "| ONNX Runtime | `quantize` |",
        "onnxruntime, percentile": "| ONNX Runtime | its own, `Percentile` |",
        "nncf": "| ONNX Runtime | NNCF |",
        "ours (openvino)": "| OpenVINO | `quantize` |",
        "nncf (openvino)": "| OpenVINO | NNCF |",
        "ours (executorch)": "| ExecuTorch | `quantize` |",
        "torchao (executorch)": "| ExecuTorch | torchao |",
    }
    found: list[dict[str, tuple[float, float]]] = []
    for network in ("muffnet_x0_5", "menet_108_8x1_g3"):
        rows = load_results("int8_methods")[f"{network}-latency"]["rows"]
        both = {row["method"]: row["draws"][0]["milliseconds"] for row in rows}
        found.append({way: (each["int8"], each["int8"] / each["float32"]) for way, each in both.items()})
    for times_of in found:
        assert min(times_of, key=lambda way: times_of[way]) == "ours (c)"
        assert min(ratio for way, (_, ratio) in times_of.items() if way in ("ours", "nncf")) > 0.99
    assert found[0]["torchao (executorch)"] < found[0]["ours (executorch)"]
    assert found[1]["nncf (openvino)"] < found[1]["ours (openvino)"]
    return [
        f"{label} " + " | ".join("{:.2f}, {:.2f}x".format(*each[way]) if way in each else "" for each in found).rstrip()
        for way, label in ways.items()
    ]


def deploy() -> list[str]:
    found, steady = times("menet") | times("muffnet"), times("steady")
    ours = sorted({network for network, _ in found if network.startswith(("menet", "muffnet"))})
    fastest = {network: min((milliseconds(found[network, f]), f) for f in RUNTIMES) for network in ours}
    assert all(fastest[name][1] == "openvino" for name in ours if found[name, "eager"]["macs"] > 100e6)
    assert (fastest["menet_108_8x1_g3"][1], fastest["muffnet_x0_5"][1]) == ("executorch", "onnx")
    half = [
        milliseconds(rows[name, "openvino@bf16"]) / milliseconds(rows[name, "openvino"])
        for rows in (times("menet"), times("muffnet"))
        for name, form in rows
        if form == "openvino@bf16"
    ]
    limits = [found[name, fastest[name][1]]["times_limit"] for name in ours]
    openvino = {name: found[name, "openvino"] for name in ours}
    parts = {name: {one["kind"]: one["milliseconds"] for one in row["operators"]} for name, row in openvino.items()}
    shuffle = [100 * part["ShuffleChannels"] / sum(part.values()) for name, part in parts.items() if "menet" in name]
    muff = {name: part for name, part in parts.items() if name.startswith("muffnet")}
    pointwise = [part["1x1 convolution"] / openvino[name]["limit_milliseconds"] for name, part in muff.items()]
    moved = [100 * (part["VariadicSplit"] + part["Concat"]) / sum(part.values()) for part in muff.values()]
    first = [part["3x3 convolution"] + part["Reorder"] for part in muff.values()]
    peers = [
        times("muffnet")[f"timm:{name}", "openvino"]["times_limit"]
        for name in ("mobilenetv2_100", "efficientnet_lite0")
    ]
    again = [milliseconds(row) / milliseconds(found[key]) for key, row in steady.items()]
    assert 0.8 < median(again) < 1.2
    tenth = [
        row["milliseconds"]["p10"] / milliseconds(row)
        for record in load_results("latency").values()
        for row in record["rows"]
    ]
    largest = max(
        row["relative_difference"]
        for record in load_results("latency").values()
        for row in record["rows"]
        if row["format"] != "eager" and "float16" not in row["format"]
    )
    planar = times("planar")

    def gains(rows: dict[tuple[str, str], Any]) -> list[list[float]]:
        """By family: how much faster format c is than the fastest other."""
        found = {
            name: min(milliseconds(row) for (other, form), row in rows.items() if other == name and form != "c")
            / milliseconds(rows[name, "c"])
            for name in ours
        }
        return [[gain for name, gain in found.items() if name.startswith(each)] for each in ("menet", "muffnet")]

    by_family, with_avx512 = gains(planar), gains(times("planar-avx512"))
    equals = [
        milliseconds(row) / milliseconds(times("planar-avx512")[key])
        for key, row in times("planar-avx2-build").items()
        if key[1] == "c"
    ]
    assert 0.9 < median(equals) < 1.02, "docs/deploy.md says that AVX2 is as fast there"
    threads = {
        (row["network"], row["format"], row["threads"]): row for row in load_results("latency")["threads"]["rows"]
    }
    two = [milliseconds(threads[name, "c", 1]) / milliseconds(threads[name, "c", 2]) for name in ours]
    halves = [milliseconds(threads[name, "c@float16", 1]) / milliseconds(threads[name, "c", 1]) for name in ours]
    equal = milliseconds(planar["menet_108_8x1_g3", "c"]) / milliseconds(planar["muffnet_x0_5", "c"])
    assert 0.95 < equal < 1.05, "docs/choosing.md says that the two take as long"
    plain = int8("menet_108_8x1_g3-onnx-ranges")
    forms = ("c", "onnx", "openvino", "executorch")
    errors = [int8(f"menet_108_8x1_g3-{each}")["logits_error"] for each in forms]
    assert all(int8(f"menet_108_8x1_g3-{each}")["drop_points"] <= 0 for each in forms)
    shipped = {form: load_results("int8")[f"muffnet_x0_5.cifar10-{form}"] for form in forms}
    worst = max(record["evaluation"]["drop_points"] for record in shipped.values())
    shipped_times = {form: milliseconds(record["latency"]["rows"][1]) for form, record in shipped.items()}
    after, trained = int8("muffnet_x0_5-onnx"), int8("muffnet_x0_5-onnx-qat")
    percent = [100 * each / after["images"] for each in (after["float_correct"], after["int8_correct"])]
    place = {
        form: planar["menet_108_8x1_g3", form] for form in ("litert", "executorch", "ncnn", "openvino", "onnx", "c")
    }
    other = times("peers")
    for name in ("efficientnet_lite0", "mobilenetv4_conv_small"):
        fastest_of = min((milliseconds(row), form) for (each, form), row in other.items() if each == f"timm:{name}")
        assert fastest_of[1] in ("litert", "onnx")
    visit = load_results("browser")["page"]["rows"][0]
    page = visit["engines"]["planar"]["bytes"]
    in_turns = [
        [
            milliseconds(turn["engines"]["onnx"]) / milliseconds(turn["engines"]["planar"])
            for row in load_results("browser")["page"]["rows"]
            for turn in row["turns"]
            if turn["engines"]["onnx"]["threads"] == count
        ]
        for count in (1, 2)
    ]
    cores = load_results("microcontroller")
    core_rows = {row["size"]: row for row in cores["muffnet_x0_5"]["rows"]}
    (shipped,), (many,) = (cores[f"muffnet_x0_5{name}"]["rows"] for name in (".cifar10", "_1000_classes"))
    assert many["weight_bytes"] > cores["muffnet_x0_5"]["limits"]["flash_bytes"] == 2**20
    assert cores["muffnet_x0_5"]["limits"]["ram_bytes"] == 2**19
    assert all(row.get("bit_exact", row["complaint"] is not None) for row in (*core_rows.values(), shipped, many))
    bounds = table("docs/results.md", "Latency: planar-avx512", "of the core's limit")
    pointwise_share, of_core = ([float(row[i].removesuffix(" %")) for row in bounds] for i in (1, 2))
    at_limit = [float(row[3]) for row in bounds]
    assert visit["network"] == "menet_108_8x1_g3"
    return [
        *(
            f"{row['bytes'] / 1e6:.1f} MB, {where} | {milliseconds(row):.2f} ms"
            for row, where in (
                (place["litert"], "in an app with LiteRT"),
                (place["executorch"], "in an app with ExecuTorch and XNNPACK"),
                (place["ncnn"], "with ncnn"),
                (place["c"], "no runtime"),
            )
        ),
        f"{place['onnx']['bytes'] / 1e6:.1f} MB, with the runtime | {milliseconds(place['openvino']):.2f} or "
        f"{milliseconds(place['onnx']):.2f} ms",
        f"{(page['page'] + page['code']) / 1e3:.0f} kB compressed, and the weights, {page['weights'] / 1e6:.1f} MB | "
        f"{visit['turns'][0]['engines']['planar']['milliseconds']['median']:.1f} ms in Chromium",
        f"{span(by_family[0], 2)} times as fast for MENet and {span(by_family[1], 2)} times for MuffNet",
        f"{span(with_avx512[0], 2)} times and {span(with_avx512[1], 2)} times",
        f"Two threads are {span(two, 2)} times as fast as one",
        f"The time was {span(halves, 2)} of float32's",
        f"{span(pointwise_share, 0)} % of the time, and run at {span(of_core, 0)} % of the core's limit.",
        f"the networks would be {span(at_limit, 2)} times as fast",
        f"a visitor loads {page['code'] / 1e3:.0f} kB of code",
        f"ONNX Runtime Web took {span(in_turns[0], 2)} times as long on four networks. With two threads it took "
        f"{span(in_turns[1], 2)} times",
        f"The largest difference of a recorded artifact is {largest:.7f}.",
        *(
            f"| {size} | {row['flash_bytes']:,} | {row['ram_bytes']:,} | {'no' if row['complaint'] else 'yes'} |"
            for size, row in core_rows.items()
        ),
        f"take {shipped['flash_bytes']:,} bytes of flash and {shipped['ram_bytes']:,} of RAM",
        f"{core_rows[160]['flash_bytes'] / 1e6:.2f} MB of flash and at 160 x 160 pixels "
        f"{core_rows[160]['ram_bytes'] / 1e6:.2f} MB of RAM",
        f"lose {plain['drop_points']:.1f} points of top-1, with an error of the logits of {plain['logits_error']:.2f}",
        f"{plain['images']} photographs could show, with {span(errors, 2)}",
        f"muffnet_x0_5.cifar10 loses at most {worst:.2f} points",
        f"takes {shipped_times.pop('c'):.2f} ms in `c`, {span([*shipped_times.values()], 2)} ms in the other runtimes",
        f"has {percent[0]:.2f} % in float, {percent[1]:.2f} % quantised after training, and "
        f"{100 * trained['int8_correct'] / trained['images']:.2f} % trained for int8",
        f"bfloat16 in OpenVINO takes {span(half, 2)} of its float32 time",
        f"take {span(limits, 1)} times the limit",
        f"takes {span(shuffle, 0)} %",
        f"alone take {span(pointwise, 1)} times the limit, what the M matrix splits and concatenates "
        f"{span(moved, 0)} % of the time",
        f"take {span(peers, 1)} times theirs, it {openvino['muffnet_x1_5']['times_limit']:.1f}",
        f"{span(first, 1)} ms together",
        f"gave {span(again, 1)} of the medians of turns of 8",
        f"is {span(tenth, 1)} of the median",
    ]


def scaling() -> list[str]:
    photographs = speed("loader-photographs-cpu")["photographs, decoded by simplejpeg"]
    (small,) = speed("loader-small-cpu").values()
    step = speed("step-time-cpu")["muffnet_x0_5"]
    return [
        f"some {rate(photographs):.0f} photographs per second, {photographs['ratio']['median']:.1f} times",
        f"at {round(rate(small), -3):,.0f} per second",
        f"has {step['ratio']['median']:.1f} times a plain loop's rate",
        "| R = 1,000 | {:.1f} hours | {:.0f} minutes |".format(
            *(120 * 1_281_167 / 1000 / n / 60 for n in (8 * 60, 64))
        ),
    ]


def dependencies() -> list[str]:
    rows = speed("loader-photographs-cpu")
    by = [rows[f"photographs, decoded by {name}"]["ratio"]["median"] for name in ("simplejpeg", "pillow")]
    photographs = {
        row["method"]: mean(draw["drop_points"] for draw in row["draws"])
        for name in ("menet_108_8x1_g3-control", "menet_108_8x1_g3-imagenet")
        for row in load_results("int8_methods")[name]["rows"]
    }
    theirs = [lost for method, lost in photographs.items() if method.startswith(("nncf", "onnxruntime"))]
    assert max(photographs[each] for each in ("ours", "ours (c)", "ours (openvino)")) <= 0
    return [
        f"{by[0]:.1f} instead of {by[1]:.1f} times the usual pipeline",
        f"NNCF, with and without its accuracy control, and ONNX Runtime lost {span(theirs, 1)} points and we none",
        f"ours lost {photographs['ours, ranges only']:.1f}",
    ]


def menet() -> list[str]:
    (record,) = load_results("evaluation").values()
    right = [record[key] * record["images"] / 100 for key in ("top1_percent", "top5_percent")]
    # that the paper's own are exact, and which peers miss, tests/papers/test_cost.py holds
    costs = measure_rows(row for row in stated_rows("menet", "II") if row.note)
    missed = [abs(cost.macs.deviation) for cost in costs if cost.macs]
    if any(cost.unavailable for cost in costs):
        pytest.skip("needs compactnets[peers]")
    return [
        f"on {record['images']} ImageNet photographs it names the class of {right[0]:.0f} first and of {right[1]:.0f} ",
        f"miss by {span(missed, 1)} %",
    ]


def muffnet() -> list[str]:
    rows = {row["key"]: row for row in load_results("ablation")["cifar10-sharing"]["rows"]}
    found, start = (rows[key]["arguments"]["sharing"] for key in ("found", "start"))
    factors = []
    for stage, before in zip(found, start, strict=True):
        logs = [
            math.log(one / other)
            for row, first in zip(stage, before, strict=True)
            for one, other in zip(row, first, strict=True)
            if one and other
        ]
        factors.append(math.exp(math.sqrt(sum(log**2 for log in logs) / len(logs))))
    (search,) = load_results("training")["cifar10-search"]["runs"]
    variant = count_network("muffnet_x0_5", (("num_classes", 10), ("stem", "cifar")), (3, 32, 32))[0]
    rows_5 = {row["key"]: row for row in load_results("ablation")["cifar10-sharing-5"]["rows"]}
    gains = [
        float(describe(each["found"])[1].split()[0]) - float(describe(each["average+geometric+none"])[1].split()[0])
        for each in (rows, rows_5)
    ]
    return [
        "typical factor of {:.2f}, {:.2f} and {:.2f} in the three stages".format(*factors),
        f"the first layer has {sum(found[1][0])} channels and the last {sum(found[1][-1])}",
        f"costs {search['macs'] / variant:.1f} times the variant per step",
        f"It is {gains[0]:.1f} points then and {gains[1]:.1f} after five",
    ]


def segmentation() -> list[str]:
    runs = {(run["model"], bool(run["init"])): run for run in load_results("segmentation")["camvid"]["runs"]}
    ious = {key: {row["name"]: row["iou"] for row in run["val"]["classes"]} for key, run in runs.items()}
    told = []
    for model in ("menet_108_8x1_g3", "muffnet_x0_5"):
        begun, random = runs[model, True], runs[model, False]
        reached = [f"{run['val']['miou_percent']:.2f}" for run in (begun, random)]
        told.append(f"| {' | '.join(reached)} | {begun['macs'] / 1e6:.0f} M | {begun['params'] / 1e6:.2f} M |")
    menet, muffnet = ious["menet_108_8x1_g3", True], ious["muffnet_x0_5", True]
    return [
        *told,
        f"after {runs['menet_108_8x1_g3', True]['recipe']['epochs']} epochs",
        f"road {menet['road']:.0f} %, sky {menet['sky']:.0f} %",
        f"pole {menet['pole']:.1f} and {muffnet['pole']:.1f} %",
    ]


def training() -> list[str]:
    own, earlier = (speed(f"step-time-own-kernels{each}")["muffnet_x0_5"] for each in ("-avx512", ""))
    return [
        f"trained {own['ratio']['median']:.2f} times as many images per second as with torch's compiled step",
        f"earlier kernels, on two cores with AVX2, {earlier['ratio']['median']:.2f} times",
    ]


def little_hardware() -> list[str]:
    own = speed("step-time-own-kernels-avx512")["muffnet_x0_5"]
    levers = {row["lever"]: row["mean"] for row in load_results("levers")["cifar10-fast"]["rows"]}
    run, second, third = (
        load_results("training")[f"cifar10-fast{each}"]["runs"][0] for each in ("", "-second", "-third")
    )
    last = shipped("muffnet_x0_5")
    by_size = [run["epochs"][index]["images_per_second"] for index in (2, -1)]  # at 16 pixels and at 32
    scores = [each["epochs"][-1]["top1_percent"] for each in (run, second, last)]
    late = next(epoch["top1_percent"] for epoch in second["epochs"] if epoch["epoch"] == 20)
    best, sgd, slow = (levers[name] for name in ("muon, ten times the rate", "as it is", "muon, half the rate"))
    return [
        f"muffnet_x0_5 had {best:.1f} % of held-out training",
        f"at a rate of 0.05, and {sgd:.1f} % with SGD at 0.1",
        f"at 0.0025 Muon had {slow:.1f} %",
        f"make {own['ratio']['median']:.2f} times as many steps",
        f"{scores[0]:.2f} % of the test images",
        f"after {len(run['epochs'])} epochs in {run['epochs'][-1]['seconds'] / 3600:.1f} hours of one core",
        f"{scores[1]:.2f} % after {len(second['epochs'])} more epochs in "
        f"{second['epochs'][-1]['seconds'] / 3600:.1f} hours of one core",
        f"it gained {scores[1] - scores[0]:.2f} points",
        f"instead of 40 %, ended at {third['epochs'][-1]['top1_percent']:.2f} %",
        f"{scores[2]:.2f} % after {len(last['epochs'])} more epochs in "
        f"{last['epochs'][-1]['seconds'] / 3600:.1f} hours of one core",
        f"From the same weights, of {scores[1]:.2f} %, a run at the full rate of {third['recipe']['lr']:g} ended at "
        f"{third['epochs'][-1]['top1_percent']:.2f} %, and one from {last['recipe']['lr']:g} at {scores[2]:.2f} %",
        f"training loss was {third['epochs'][1]['train_loss']:.2f} at the full rate, at 24 pixels, and "
        f"{last['epochs'][1]['train_loss']:.2f} at the lower one, at 32",
        f"{late:.0f} % after two thirds of it, {scores[1]:.0f} % at its end",
        f"trained {by_size[0]:.0f} images a second at 16 pixels and {by_size[1]:.0f} at 32",
    ]


def finetuning() -> list[str]:
    rows = {row["method"]: row["runs"] for row in load_results("fine_tuning")["cifar100"]["rows"]}
    ours, theirs = ([run["top1"] for run in rows[method]] for method in ("finetune", "timm script"))
    assert len(ours) == len(theirs) == 5
    assert abs(mean(ours) - mean(theirs)) < 1
    seconds = [run["seconds"] for run in rows["finetune"]]
    return [
        f"{mean(ours):.1f} % of 100 others of each class are right",
        f"mean of five draws of classes and images ({span(ours, 1)}), after {span(seconds, 0)} seconds of a busy core",
        f"has {mean(theirs):.1f} % ({span(theirs, 1)})",
    ]


def serving() -> list[str]:
    few, many = load_results("predict_scale")["cifar10"]["rows"]
    late = "allocated_mb_at_75%"
    return [
        f"{few[late]} MB for {few['images']:,} images, and {many[late]} MB for {many['images']:,}",
        f"{many['images_per_second']:.0f} images a second",
    ]


PAGES: dict[str, Callable[[], list[str]]] = {
    "docs/finetuning.md": finetuning,
    "README.md": readme,
    "docs/choosing.md": choosing,
    "docs/dependencies.md": dependencies,
    "docs/deploy.md": lambda: [*deploy(), *quantisers()],
    "docs/detection.md": detection,
    "docs/little_hardware.md": little_hardware,
    "docs/menet.md": menet,
    "docs/muffnet.md": muffnet,
    "docs/scaling.md": scaling,
    "docs/segmentation.md": segmentation,
    "docs/serving.md": serving,
    "docs/training.md": training,
}


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_those_of_the_records(page: str) -> None:
    text = text_of(page)
    assert [figure for figure in PAGES[page]() if figure not in text] == []


@pytest.mark.slow  # two detectors are traced
def test_what_a_smaller_faster_rcnn_costs() -> None:
    smaller = ["faster_rcnn.shorter_side=480", "faster_rcnn.longer_side=800", "faster_rcnn.proposals_test=100"]
    costs = [
        detector_cost(planned_record("menet_108_8x1_g3", "faster_rcnn", "small/faster_rcnn", 3, settings)).macs
        for settings in ([], smaller)
    ]
    assert f"Faster R-CNN has {costs[1] / costs[0]:.2f} of the multiply-adds" in text_of("docs/detection.md")


@pytest.mark.parametrize("network", ["menet_108_8x1_g3", "muffnet_x0_5"])
def test_cards_of_the_weights_say_what_is_recorded(network: str) -> None:
    card = (ROOT / f"src/compactnets/weights/{network}.cifar10.md").read_text(encoding="utf-8")
    assert f"{top1(network):.2f} % before rounding" in card
