"""Time of a training step: a plain loop, as the MENet repository has it, against ours, in one run.

    python benchmarks/step_time.py muffnet_x0_5 menet_228_12x1_g3 [--output FILE]  # recorded/speed/step-time-cpu.json

Plain: eager, NCHW, float32, torch's SGD, the loss read after every step. Ours: the package's own step
(``compactnets.training.step.Learner``) with the settings of the recipe ``cifar/short``, its SGD in place of AdamW so
that both do the same arithmetic. Both train the same network on the same random images (a step takes as long on
photographs), each in a process of its own. Blocks of steps alternate; the ratio is taken within each pair of
neighbouring blocks.

With ``--reference KEY=VALUE`` (repeatable) the reference is our own step with these settings. So the gain of the
package's own kernels is measured by ``--set precision=float32 --reference kernels=torch``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from harness import Call, RemoteCall, compare, describe, write_record
from torch import nn

from compactnets import create_model
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.setup import ClassificationObjective
from compactnets.data.loading import Batch
from compactnets.training.compiling import choose_kernels
from compactnets.training.cpu import keep_freed_memory
from compactnets.training.distributed import World, pick_device
from compactnets.training.recipe_files import load_recipe
from compactnets.training.step import Learner

NOTE = "A step of {0.batch_size} images of {0.size} x {0.size} pixels, against a plain loop (eager, NCHW, float32)."
OWN_NOTE = "A step of {0.batch_size} images of {0.size} x {0.size} pixels, against ours with {settings}."


def plain_step(name: str, arguments: argparse.Namespace) -> tuple[Call, Call]:
    """Return a step as the MENet repository's ``main.py`` takes it."""
    device, images, labels = make_batch(arguments)
    model = create_model(name, num_classes=10, stem="cifar").to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> None:
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step, waiting(device)


def our_step(name: str, arguments: argparse.Namespace) -> tuple[Call, Call]:
    """Return the package's step."""
    device, images, labels = make_batch(arguments)
    recipe = load_recipe(
        ClassificationRecipe,
        "cifar/short",
        ["optimizer.name=sgd", "lr=1e-3", "clip_grad_norm=null", *arguments.set],
        name,
    )
    if device.type == "cpu":
        keep_freed_memory()
    model = create_model(name, num_classes=10, stem="cifar").to(device)
    world, objective = World(device), ClassificationObjective(recipe, 1000, num_classes=10)
    learner = Learner(model, recipe, 1000, objective, world, choose_kernels(recipe, True, world))
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    batch = Batch(images.contiguous(memory_format=layout), labels, torch.arange(len(images)))
    learner.model.train()
    taken = 0

    def step() -> None:
        nonlocal taken
        (losses,) = learner.step(batch, taken).values()
        taken += 1
        if device.type == "cpu" or taken % 25 == 0:  # as often as the engine reads them
            losses.mean().item()

    return step, waiting(device)


def make_batch(arguments: argparse.Namespace) -> tuple[torch.device, torch.Tensor, torch.Tensor]:
    """Return the device, random images and labels."""
    device = pick_device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch_size, 3, arguments.size, arguments.size, generator=generator)
    labels = torch.randint(10, (arguments.batch_size,), generator=generator)
    return device, images.to(device), labels.to(device)


def waiting(device: torch.device) -> Call:
    """Return what waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both steps of one network, each in a process of its own."""
    replaced = {each.partition("=")[0] for each in arguments.reference}
    kept = [each for each in arguments.set if each.partition("=")[0] not in replaced]
    other = argparse.Namespace(**{**vars(arguments), "set": [*kept, *arguments.reference]})
    plain = RemoteCall(our_step, name, other) if arguments.reference else RemoteCall(plain_step, name, arguments)
    ours = RemoteCall(our_step, name, arguments)
    start = time.perf_counter()
    ours()
    ours.wait()
    first = time.perf_counter() - start

    def wait() -> None:
        plain.wait()
        ours.wait()

    result = compare(plain, ours, arguments.rounds, arguments.steps, wait)
    plain.close()
    ours.close()
    return {"network": name, "images_per_step": arguments.batch_size, "first_step_seconds": first, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["muffnet_x0_5", "menet_228_12x1_g3"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of our recipe")
    parser.add_argument(
        "--reference", action="append", default=[], metavar="KEY=VALUE", help="our step with this, not a plain loop"
    )
    parser.add_argument("--output", type=Path, help="JSON record to write")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        rows.append(measure(name, arguments))
        print(describe(rows[-1], " ".join(arguments.reference) or "plain", "ours"), flush=True)
    if arguments.output:
        note = (OWN_NOTE if arguments.reference else NOTE).format(arguments, settings=" and ".join(arguments.reference))
        content = {"note": note, "settings": vars(arguments), "rows": rows}
        write_record(arguments.output, pick_device(arguments.device), content)


if __name__ == "__main__":
    main()
