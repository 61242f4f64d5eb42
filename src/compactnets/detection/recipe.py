"""Recipes of detectors: the settings of a run and of the detector."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compactnets.training.recipe import MOST, MOST_PIXELS, RunRecipe, Section, Values

Positive = Annotated[float, Field(gt=0, le=100)]  # a ratio of two sides
Pixels = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
Boxes = Annotated[int, Field(gt=0, le=1_000_000)]
Ratios = Values[Positive]


class FasterRCNNSettings(Section):
    """Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) with the last stage after RoIAlign (MENet, section IV-B)."""

    shorter_side: int = Field(600, ge=64, le=MOST_PIXELS, description="pixels to which images are scaled (MENet: 600)")
    longer_side: int = Field(1000, ge=64, le=MOST_PIXELS, description="pixels at most; the original's")
    stride: Pixels = Field(16, description="reduction of the level at which the network is cut")
    anchor_sizes: Values[Pixels] = Field((128, 256, 512), min_length=1, description="roots of areas, scaled pixels")
    anchor_ratios: Ratios = Field((0.5, 1.0, 2.0), min_length=1, description="height / width")
    roi_size: int = Field(7, ge=2, le=64, description="cells per side of RoIAlign's output; the subnet keeps them")
    rois_per_image: Boxes = Field(128, description="boxes for training the subnet; a quarter with an object")
    proposals_train: Boxes = Field(2000, description="proposals to draw them from, after suppression")
    proposals_test: Boxes = Field(300, description="proposals for the subnet at test time (MENet: 300)")
    nms: float = Field(0.3, gt=0, lt=1, description="IoU above which the weaker of two boxes of a class is suppressed")
    class_agnostic_nms: bool = Field(False, description="also suppress overlapping boxes of different classes")
    score: float = Field(0.05, ge=0, lt=1, description="least score of a detection")
    detections: Boxes = Field(100, description="of an image, at most")

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        if self.longer_side < self.shorter_side:
            raise ValueError(
                f"longer_side must be at least shorter_side = {self.shorter_side}, found {self.longer_side}"
            )
        return self


class SSDSettings(Section):
    """SSD (Liu et al. 2016, arXiv:1512.02325) of any size on any levels."""

    size: int = Field(512, ge=64, le=MOST_PIXELS, description="pixels a side to which images are stretched")
    strides: Values[Pixels] = Field((16, 32), min_length=1, description="reductions of the network's levels")
    extra_channels: Values[Annotated[int, Field(gt=0, le=1 << 16)]] = Field(
        (512, 512, 256, 256),
        description="of the extra layers after them, each half the size of the one before, down to 1x1",
    )
    smallest: float = Field(0.1, gt=0, lt=1, description="square anchors of the first map, as a share of the size")
    largest: float = Field(0.9, gt=0, le=1, description="of the last map; those between are evenly spaced")
    scales: Values[float] | None = Field(
        None, description="instead of both: of every map, and one more, up to which the last map's larger anchor goes"
    )
    ratios: Values[Ratios] = Field(
        ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        min_length=1,
        description="aspect ratios of each map besides 1, each also turned; the last entry serves all maps after it",
    )
    overlap: float = Field(0.5, gt=0, lt=1, description="IoU above which an anchor matches an object")
    negatives: float = Field(3.0, gt=0, le=1_000_000, description="hardest anchors without object per anchor with one")
    least_negatives: int = Field(
        3,
        ge=0,
        le=1_000_000,
        description="minimum per image, also without objects; 0: images without objects contribute nothing",
    )
    nms: float = Field(0.45, gt=0, lt=1, description="IoU above which the weaker of two boxes of a class is suppressed")
    class_agnostic_nms: bool = Field(False, description="also suppress overlapping boxes of different classes")
    score: float = Field(0.01, ge=0, lt=1, description="least score of a detection")
    candidates: Boxes = Field(400, description="boxes of a class before suppression")
    detections: Boxes = Field(200, description="of an image, at most")

    @model_validator(mode="after")
    def _scales_rise(self) -> Self:
        scales = list(self.scales or (self.smallest, self.largest))
        if scales != sorted(set(scales)) or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"scales, or smallest and largest, must rise from above 0 to at most 1, found {scales}")
        self.warn_unless(self.scales is None, ("smallest", "largest"), "ssd: ", "with scales")
        return self


class BoxAugment(Section):
    """Random augmentation of training images with their boxes."""

    flip: bool = Field(True, description="horizontally, every second image")
    flip_vertical: bool = Field(False, description="for images without up and down: microscopy, aerial images")
    photometric: bool = Field(False, description="SSD's changes of brightness, contrast, saturation and hue")
    zoom_out: bool = Field(False, description="SSD's: every second image in a canvas of up to four times its side")
    iou_crop: bool = Field(False, description="SSD's crops that keep an object with a given overlap")


class DetectionRecipe(RunRecipe):
    """A training run of a detector on the backbone ``model``."""

    task: Literal["detection"] = "detection"
    detector: Literal["faster_rcnn", "ssd"]
    batch_size: int = Field(16, gt=0, le=MOST, description="images per step over all processes together")
    train_split: str = Field("train", min_length=1, description="split of the data to train on: train, trainval, …")
    val_split: str = Field("val", min_length=1, description="split of the data to evaluate on")
    bad_boxes: Literal["raise", "drop"] = Field(
        "raise",
        description="boxes that are empty, thin, outside the image or of an unknown class, annotations that cannot be "
        "read: reject the data, or skip them",
    )
    split: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the images to train on, for undivided data; exact copies stay together",
    )
    classes: Values[str] | None = Field(
        None, min_length=1, description="the classes to learn, in this order; objects of others are skipped"
    )
    metric: Literal["voc07", "voc10", "coco"] = Field("voc07", description="ranks checkpoints")
    anchors: Literal["given", "auto"] = Field(
        "given",
        description="given: by the settings of the detector; auto: as many, of sizes and ratios that fit the training "
        "objects",
    )
    frozen_batchnorm: bool = Field(
        True, description="keep the checkpoint's statistics and weights of the backbone's batch normalisation"
    )
    faster_rcnn: FasterRCNNSettings = FasterRCNNSettings()
    ssd: SSDSettings = SSDSettings()
    augment: BoxAugment = BoxAugment()

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes and (len(set(classes)) < len(classes) or not all(name.strip() for name in classes)):
            raise ValueError(f"expected names that differ, found {list(classes)}")
        return classes

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for name in ("faster_rcnn", "ssd"):
            if name != self.detector:
                self.warn_unless(False, (name,), "", f"with detector = {self.detector!r}")
        if self.compile:
            raise ValueError("compile is for classifiers: a detector's shapes differ from image to image")
        return self
