"""A model card from a checkpoint's record: front matter that the Hub reads, and a page that people read."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from compactnets.hub.facts import Facts
from compactnets.models.registry import FAMILIES
from compactnets.values import dump_yaml

PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
}
# licences by their name here -> the Hub's identifier; all others are "unknown" there, and the page has the words
LICENSES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
    "GPL-3.0": "gpl-3.0",
    "CC0-1.0": "cc0-1.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
}


def in_timm(facts: Facts) -> bool:
    """Whether ``timm.create_model("hf-hub:…")`` can build the network, once compactnets is imported."""
    return facts.task == "classification" and facts.record["model"] in FAMILIES


def make_card(facts: Facts, repository: str) -> str:
    """Return README.md of a repository.

    Args:
        facts: of the checkpoint (:func:`compactnets.hub.facts.read_facts`).
        repository: ``OWNER/NAME``.
    """
    record = facts.record
    parts = [
        f"---\n{_front_matter(facts, repository)}\n---\n",
        f"# {repository.rpartition('/')[2]}\n",
        f"`{record['model']}` for {facts.task}, {len(record['class_names'])} classes, saved by compactnets.\n",
        _table(_rows(facts)),
        f"## Load it\n\n{_usage(facts, repository)}",
    ]
    if recipe := record["training"].get("recipe"):
        parts.append(f"## Recipe\n\n```yaml\n{dump_yaml(recipe).rstrip()}\n```\n")
    shown = record.get("class_labels") or record["class_names"]
    parts.append(f"## Classes\n\n{', '.join(map(_cell, shown))}\n")
    return "\n".join(parts)


def _front_matter(facts: Facts, repository: str) -> str:
    pipeline = PIPELINES[facts.task]
    fields: dict[str, Any] = {}
    if facts.accuracy is not None and facts.data is not None:
        name, metric, value = facts.accuracy
        result = EvalResult(
            task_type=pipeline,
            dataset_type=facts.data,
            dataset_name=facts.data,
            metric_type=metric,
            metric_value=round(value, 2),
            metric_name=f"{name}, %",
        )
        fields = {"model_name": repository.rpartition("/")[2], "eval_results": [result]}
    data = ModelCardData(
        library_name="compactnets",
        license=LICENSES.get(facts.record["license"], "unknown"),
        pipeline_tag=pipeline,
        tags=["compactnets", pipeline, *(["timm"] if in_timm(facts) else [])],
        **fields,
    )
    return str(data.to_yaml())


def _rows(facts: Facts) -> list[tuple[str, str]]:
    record, training = facts.record, facts.record["training"]
    rows = []
    if facts.accuracy is not None:
        name, _, value = facts.accuracy
        images = f" {training['images']:,}" if isinstance(training.get("images"), int) else ""
        rows.append((name, f"{value:.2f} % on the{images} validation images of {facts.data}, by the record"))
        rows.append(
            ("measure it", f"`compactnets eval --checkpoint DIR/model.safetensors --data {facts.data or 'DATA'}`")
        )
    if facts.data is not None:
        rows.append(("data", facts.data))
    if facts.command is not None:
        rows.append(("trained by", f"`{facts.command}`"))
    rows.append(("parameters", f"{facts.params:,}"))
    if facts.macs is not None and facts.size is not None:
        rows.append(("multiply-adds", f"{facts.macs:,} at {facts.size[1]} x {facts.size[2]}"))
    rows += [
        (f"latency, {each.runtime}", f"{each.milliseconds:.2f} ms, one thread, {each.processor}, {each.date}")
        for each in facts.latencies
    ]
    rows += [(key, str(training[key])) for key in ("epochs", "seed", "commit", "date") if training.get(key) is not None]
    rows.append(("weights", f"{facts.bytes:,} bytes, safetensors"))
    rows.append(("source", str(record["source"]) if facts.command is None else "trained by compactnets"))
    rows.append(("licence", str(record["license"])))
    rows.append(("versions", ", ".join(f"{key} {value}" for key, value in record["versions"].items()) or "unknown"))
    return rows


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n| --- | --- |\n" + "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in rows)


def _cell(text: str) -> str:
    """Return a text that stays in one cell: a record is what somebody wrote."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _usage(facts: Facts, repository: str) -> str:
    name = repository.rpartition("/")[2]
    text = (
        f"```sh\ncompactnets pull {repository} --output {name}\n"
        f"compactnets predict --checkpoint {name}/model.safetensors photo.jpg\n```\n"
    )
    if in_timm(facts):
        text += (
            "\n```python\nimport compactnets  # registers its networks with timm\nimport timm\n\n"
            f'model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()\n```\n'
        )
    return text
