"""A toy task, in one file: predict the mean colour of an image, (N, 3, S, S) from 0 to 1 -> (N, 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from compactnets.console import stdout
from compactnets.data import Augment, ImageSource, Preprocess, make_eval_loader, make_train_loader, open_source
from compactnets.data.inputs import Picture, read_pictures
from compactnets.deploy.formats.registry import FORMATS, find_format
from compactnets.deploy.record import NAME, ExportedRecord, digest, read_artifact, size_in_bytes
from compactnets.errors import LimitError
from compactnets.folders import writing
from compactnets.tasks.contract import DataRequest, Model, Options, Task
from compactnets.training.checkpoint import load_weights, read_record, read_tensors, save_checkpoint
from compactnets.training.curves import Curves
from compactnets.training.distributed import World
from compactnets.training.recipe import RunRecipe
from compactnets.training.setup import TrainingSetup

PREPROCESS = Preprocess(size=16, resize=16, mean=(0.0,) * 3, std=(1.0,) * 3)


class ColourRecipe(RunRecipe):
    task: Literal["colour"] = "colour"
    model: str = "mean"


class ColourRecord(BaseModel):
    task: Literal["colour"] = "colour"
    model: str = "mean"
    class_names: list[str] = ["red", "green", "blue"]


class ColourExport(ExportedRecord):
    task: Literal["colour"] = "colour"
    network: ColourRecord


@dataclass(frozen=True)
class Score:
    error: float  # root mean square, from 0 to 1
    title = "closeness"

    @property
    def value(self) -> float:
        return 100 * (1 - self.error)

    def metrics(self) -> dict[str, float]:
        return {"closeness_percent": self.value}

    def summary(self) -> str:
        return f"closeness {self.value:.2f} %"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), **self.metrics()}

    def show(self, title: str) -> None:
        stdout.print(f"{title}: {self.summary()}")


@dataclass(frozen=True)
class Colour:
    name: str
    values: tuple[float, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        yield " ".join(f"{value:.2f}" for value in self.values)

    def rows(self) -> Iterator[Sequence[Any]]:
        yield (self.name, *(self.values or (None,) * 3), self.error)


def make_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


class Objective:
    def micro_batches(self, batch: Any, step: int) -> Sequence[Tensor]:
        return [batch.images]

    def losses(self, forward: Callable[..., Any], part: Tensor) -> Mapping[str, Tensor]:
        return {"squares": (forward(part) - part.mean((2, 3))).square().mean(1)}


class Setup(TrainingSetup):
    curves = Curves({"closeness_percent": "closeness"}, "closeness, %", loss_title="squared error")

    def __init__(self, recipe: ColourRecipe, train: ImageSource, val: ImageSource, init: Path | None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.train_source, self.val_source, self.init = recipe, train, val, init
        self.model, self.objective = make_network(), Objective()

    def make_loader(self, world: World) -> Any:
        return make_train_loader(
            self.train_source, Augment(), PREPROCESS, batch_size=self.recipe.batch_size, seed=self.recipe.seed
        )

    def make_eval_loader(self, world: World) -> Any:
        return make_eval_loader(self.val_source, PREPROCESS, batch_size=self.recipe.batch_size)

    def evaluate(self, model: nn.Module, loader: Any, world: World, description: str, stop: Any) -> Score:
        return measure(model, loader)

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        save_checkpoint(folder / f"{name}.safetensors", weights, ColourRecord())


def measure(model: nn.Module, loader: Iterable[Any]) -> Score:
    with torch.inference_mode():
        means = [float((model(batch.images) - batch.images.mean((2, 3))).square().mean()) for batch in loader]
    return Score(float(np.sqrt(np.mean(means))))


@dataclass(frozen=True)
class Written:
    record: ColourExport

    def to_dict(self) -> dict[str, Any]:
        return self.record.model_dump()

    def show(self) -> None:
        stdout.print(f"{self.record.format}: {self.record.bytes} bytes")


class ColourTask(Task[ColourRecipe]):
    name, recipe, record, artifact = "colour", ColourRecipe, ColourRecord, ColourExport
    columns = {"image": str, "red": float, "green": float, "blue": float, "error": str}

    def holds(self, name: str) -> bool:
        return False

    def open_run(self, recipe: ColourRecipe, data: DataRequest, options: Options) -> tuple[ImageSource, ImageSource]:
        return open_source(data.only(self.name), "train"), open_source(data.only(self.name), "val")

    def open_split(self, model: Model, data: DataRequest, split: Any, options: Options) -> ImageSource:
        return open_source(data.only(self.name), split)

    def setup(self, recipe: Any, train: Any, val: Any, output: Path, init: Any, world: Any, options: Any) -> Setup:
        return Setup(recipe, train, val, init)

    def load(self, path: Path, device: torch.device, options: Options) -> tuple[nn.Module, ColourRecord]:
        network, record = make_network(), read_record(path, ColourRecord)
        load_weights(network, read_tensors(path), record.model, path)
        return network, record

    def load_artifact(self, path: Path, threads: int | None, options: Options) -> tuple[nn.Module, ColourRecord]:
        record, folder = read_artifact(path, ColourExport)
        run = FORMATS[record.format].open(folder / FORMATS[record.format].file, threads)
        return Runs(run), record.network

    def evaluate(self, model: Model, source: Any, split: str, workers: int, world: World, options: Options) -> Score:
        return measure(model.network, make_eval_loader(source, PREPROCESS, batch_size=16))

    def predict(self, model: Model, images: Iterable[str | Picture], every: int, options: Options) -> Iterator[Colour]:
        for picture in read_pictures(images, every):
            if picture.image is None:
                yield Colour(picture.name, error=picture.error)
                continue
            with torch.inference_mode():
                yield Colour(picture.name, tuple(model(PREPROCESS(picture.image.convert("RGB"))[None])[0].tolist()))

    def export(self, model: Model, output: Path, format_name: str, options: Options) -> Written:
        form, example = find_format(format_name), torch.rand(1, 3, 16, 16)
        with writing(output) as folder:
            form.write(model.network, example, folder)
            with torch.inference_mode():
                off = np.abs(form.open(folder / form.file)(example.numpy()) - model(example).numpy()).max()
            if off > 1e-4:
                raise LimitError(f"the {form.name} artifact differs from PyTorch by {off:.1e}")
            record = ColourExport(
                format=form.name,
                files={name: digest(folder / name) for name in form.files},
                bytes=sum(size_in_bytes(folder / name) for name in form.files),
                versions=form.versions(),
                network=model.record,
            )
            (folder / NAME).write_text(record.model_dump_json(), encoding="utf-8")
        return Written(record)


class Runs(nn.Module):
    def __init__(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.run(images.numpy()))


TASK = ColourTask()
