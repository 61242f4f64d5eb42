"""Distillation (Hinton et al. 2015, arXiv:1503.02531): a network also learns the outputs of a trained one, its teacher.

The teacher sees the images of the step after augmentation and mixing, at full size, normalised as it was trained. Its
outputs are computed in every step, in evaluation mode and without gradients: nothing random, nothing to resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.data import ImageSource, Preprocess
from compactnets.data.base import shorten
from compactnets.data.content import digest_parts
from compactnets.errors import InputError, did_you_mean
from compactnets.failures import one_line
from compactnets.files import as_path
from compactnets.models.legacy import read_state_dict
from compactnets.training.checkpoint import digest_checkpoint, read_tensors

TIMM = "timm:"
IMAGENET = "imagenet-1k"  # the classes of timm's weights of 1,000 outputs, in the order of their WordNet numbers


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || network) of every image, in nats: (B, K) logits each -> (B,).

    Both distributions are softmax(logits / T); T^2 keeps the gradient's size independent of T (section 2.1).
    """
    own = F.log_softmax(logits.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(own, wanted, reduction="none", log_target=True).sum(1)


@dataclass(frozen=True)
class Teacher:
    """A trained classifier for the classes of a source: (B, C, S, S) images of a run -> (B, K) float32 logits.

    Attributes:
        name: as the user gave it.
        network: in evaluation mode, without gradients.
        digest: of its weights, and of what says how to use them; independent of where they lie.
        order: the network's output for each class of the source; ``None`` if they are the same.
        scale, shift: from the run's normalisation to the network's, ``(C, 1, 1)``; ``None`` if they are the same.
    """

    name: str
    network: nn.Module
    digest: str
    order: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    precision: str = "float32"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.scale is not None and self.shift is not None:
            images = images * self.scale + self.shift
        mixed = self.precision != "float32"
        dtype = getattr(torch, self.precision)
        with torch.autocast(images.device.type, dtype=dtype, enabled=mixed):
            logits = self.network(images)
        logits = logits.float()
        return logits if self.order is None else logits.index_select(1, self.order)

    def describe(self) -> dict[str, str]:
        """Return what a record states."""
        return {"name": self.name, "digest": self.digest}


def open_teacher(
    name: str,
    source: ImageSource,
    preprocess: Preprocess,
    *,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> Teacher:
    """Open the teacher of a run.

    Args:
        name: a checkpoint, the name of weights, ``timm:NAME`` (timm's own weights, from its cache or the Hugging Face
            Hub), or ``timm:NAME:FILE`` (weights in a file, ``.safetensors`` or what ``torch.save`` wrote).
        source: the training images; the teacher must know the same classes. Those of a checkpoint are matched by name.
        preprocess: of the run.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``: of automatic mixed precision.

    Raises:
        InputError: no such network or weights, one that is no classifier, other classes or channels, or images of a
            size that it does not take.
    """
    if name.startswith(TIMM):
        network, mean, std, digest = _from_timm(name, source, preprocess)
        order = None
    else:
        path = as_path(name)
        network, record = load_checkpoint(path)
        own = Preprocess.from_dict(record.preprocess)
        mean, std, digest = own.mean, own.std, digest_checkpoint(path)
        order = _match(name, record.class_names, source.class_names)
    if len(mean) != preprocess.channels:
        raise InputError(
            f"the teacher {name} takes images of {len(mean)} channels, those of {source.spec} have "
            f"{preprocess.channels}"
        )
    network = network.eval().requires_grad_(False).to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    scale, shift = _renormalise(preprocess, mean, std, device)
    index = None if order is None else torch.tensor(order, device=device)
    teacher = Teacher(name, network, digest[:12], index, scale, shift, precision)
    _try(teacher, preprocess, len(source.class_names), device)
    return teacher


def _match(name: str, known: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return the output of each wanted class; ``None`` if the order is the same.

    Raises:
        InputError: other classes.
    """
    if list(known) == list(wanted):
        return None
    if len(known) != len(wanted):
        raise InputError(f"the teacher {name} knows {len(known)} classes, the training images have {len(wanted)}")
    index = {each: position for position, each in enumerate(known)}
    if unknown := [each for each in wanted if each not in index]:
        raise InputError(
            f"the teacher {name} does not know {len(unknown)} of the {len(wanted)} classes ({shorten(unknown, 3)}); it "
            f"knows {shorten(known, 3)}"
        )
    return [index[each] for each in wanted]


def _from_timm(
    name: str, source: ImageSource, preprocess: Preprocess
) -> tuple[nn.Module, Sequence[float], Sequence[float], str]:
    """Return a network of timm's, its mean and deviation, and a digest."""
    what, _, file = name.removeprefix(TIMM).partition(":")
    if not what or not timm.is_model(what):
        near = did_you_mean(what.partition(".")[0], timm.list_models())
        raise InputError(f"the teacher {name}: timm has no network {what!r}{near}")
    classes = len(source.class_names)
    if file:
        state = _read_state(as_path(file))
        with one_line(f"the teacher {name} cannot be built"):
            network = timm.create_model(what, num_classes=classes, in_chans=preprocess.channels)
        _load(network, state, name, classes)
    else:
        with one_line(f"the teacher {name} cannot be had with timm's weights"):
            network = timm.create_model(what, pretrained=True)
        outputs = getattr(network, "num_classes", None)
        if outputs != classes:
            raise InputError(f"the teacher {name} knows {outputs} classes, the training images have {classes}")
        _check_imagenet(name, source.class_names)
    known: Any = network.pretrained_cfg
    digest = digest_parts(_parts(what, network))
    return network, known["mean"], known["std"], digest


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_state_dict(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    return read_tensors(path)


def _load(network: nn.Module, state: dict[str, Tensor], name: str, classes: int) -> None:
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    shapes = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    problems = [f"it lacks {len(missing)} tensors, such as {missing[0]}"] if missing else []
    problems += [f"it has {len(unknown)} others, such as {unknown[0]}"] if unknown else []
    problems += [f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}" for key in shapes[:2]]
    if problems:
        raise InputError(f"the teacher {name} does not fit that network with {classes} classes: {'; '.join(problems)}")
    network.load_state_dict(state)


def _check_imagenet(name: str, wanted: Sequence[str]) -> None:
    """Raise where a thousand classes with WordNet numbers are not ImageNet's: there the numbers tell."""
    known = ImageNetInfo(IMAGENET).label_names()
    if len(known) != len(wanted) or not all(each.startswith("n") and each[1:].isdigit() for each in wanted):
        return
    if list(known) != list(wanted):
        unknown = [each for each in wanted if each not in set(known)]
        found = f"others ({shorten(unknown, 3)})" if unknown else "in another order"
        raise InputError(f"the teacher {name} has ImageNet's 1,000 classes, those of the training images are {found}")


def _parts(what: str, network: nn.Module) -> Iterator[bytes]:
    yield what.encode()
    for key, value in network.state_dict().items():
        yield key.encode()
        yield value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _renormalise(
    preprocess: Preprocess, mean: Sequence[float], std: Sequence[float], device: torch.device | str
) -> tuple[Tensor | None, Tensor | None]:
    """Return scale and shift from the run's normalisation to the teacher's."""
    if tuple(mean) == preprocess.mean and tuple(std) == preprocess.std:
        return None, None
    values = torch.tensor([preprocess.mean, preprocess.std, mean, std], dtype=torch.float64)
    from_mean, from_std, to_mean, to_std = values
    scale, shift = from_std / to_std, (from_mean - to_mean) / to_std
    return scale.float()[:, None, None].to(device), shift.float()[:, None, None].to(device)


def _try(teacher: Teacher, preprocess: Preprocess, classes: int, device: torch.device | str) -> None:
    """Run the teacher once, so that it fails now and not at the first step."""
    size = preprocess.size
    with one_line(f"the teacher {teacher.name} does not take images of {size} x {size} pixels"):
        found = teacher.network(torch.zeros(2, preprocess.channels, size, size, device=device))
    if not isinstance(found, Tensor) or found.shape != (2, classes):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the teacher {teacher.name} gives {shape} for two images: expected a classifier with {classes} outputs"
        )
