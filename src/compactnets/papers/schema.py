"""Data types for a paper's tables, claims and discrepancies."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from compactnets.errors import InputError, did_you_mean

METRICS = ("top1", "top5", "cifar10", "cifar100", "map")

Percent = Annotated[float, Field(ge=0, le=100)]
Scalar = bool | int | float | str


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tolerance(_Record):
    """Largest allowed deviation of our count from the stated one, in percent."""

    macs: NonNegativeFloat | None = None
    params: NonNegativeFloat | None = None


class Row(_Record):
    """One row of a table, its numbers as printed.

    Attributes:
        paper, table: location of the row.
        key: the row's name within its table: the sharing pattern, or the model's name if it is unique there.
        label: the row's label as printed.
        source: ``"own"`` (the paper's network), ``"reimplemented"`` (a peer that the authors trained) or ``"cited"`` (a
            peer's published figure).
        cites: number of the reference in the label.
        model, arguments: our name for the network, and the arguments for ``compactnets.create_model``.
        input_size: channels, height and width of the input that the counts are for.
        macs, macs_unit, macs_floored: multiply-adds, one unit of the last printed digit, and whether the count is
            truncated there instead of rounded.
        params, params_unit: parameters, and one unit of the last printed digit.
        top1, top5: accuracy on ImageNet, in percent.
        cifar10, cifar100: top-1 accuracy, in percent.
        map: mean average precision (PASCAL VOC 2007 or MS COCO), in percent.
        ap: average precision by class, in percent.
        decimals: printed decimals of the accuracies and precisions.
        tolerance: allowed deviation of our counts.
        note: reason why our count differs.
    """

    paper: str
    table: str
    key: str
    label: str
    source: Literal["own", "reimplemented", "cited"]
    cites: int | None = None
    model: str
    arguments: dict[str, Scalar] = {}
    input_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    macs: PositiveInt | None = None
    macs_unit: PositiveInt | None = None
    macs_floored: bool = False
    params: PositiveInt | None = None
    params_unit: PositiveInt | None = None
    top1: Percent | None = None
    top5: Percent | None = None
    cifar10: Percent | None = None
    cifar100: Percent | None = None
    map: Percent | None = None
    ap: dict[str, Percent] | None = None
    decimals: int | None = None
    tolerance: Tolerance = Tolerance()
    note: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Row:
        for name, stated, unit, tolerance in (
            ("macs", self.macs, self.macs_unit, self.tolerance.macs),
            ("params", self.params, self.params_unit, self.tolerance.params),
        ):
            if stated is not None and (unit is None or self.input_size is None):
                raise ValueError(f"a row with {name} needs {name}_unit and input_size")
            if (stated is None) != (tolerance is None):
                raise ValueError(f"{name} and tolerance.{name} go together")
        if self.decimals is None and any(getattr(self, metric) is not None for metric in METRICS):
            raise ValueError("a row with accuracies needs decimals")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the accuracies and precisions in the row."""
        return tuple(metric for metric in METRICS if getattr(self, metric) is not None)

    @property
    def name(self) -> str:
        """Paper, table and key: ``menet/II/vgg16``."""
        return f"{self.paper}/{self.table}/{self.key}"

    @property
    def states_cost(self) -> bool:
        """Whether the row states multiply-adds or parameters."""
        return self.macs is not None or self.params is not None

    def value(self, name: str) -> float:
        """Return a number of the row: ``macs``, ``params``, an accuracy, or the precision of a class (``ap.boat``)."""
        metric, _, label = name.partition(".")
        if metric not in (*METRICS, "macs", "params", "ap"):
            raise InputError(f"rows have no {metric!r}: expected macs, params, ap.CLASS or one of {', '.join(METRICS)}")
        value = (self.ap or {}).get(label) if metric == "ap" else getattr(self, metric)
        if value is None:
            raise InputError(f"{self.name} states no {name}")
        return value


class LayoutRow(_Record):
    """One line of an architecture table: output side in pixels, layer, and channels in each network of the table."""

    stage: str
    size: PositiveInt
    layer: str | None = None
    channels: tuple[PositiveInt, ...] = ()
    stride: PositiveInt = 1
    repeat: PositiveInt = 1
    note: str | None = None


class Reproduction(_Record):
    """How to reproduce the accuracies of a table with this package.

    Attributes:
        metrics: the :data:`METRICS` that a run gives.
        recipe, settings: name of the recipe, and changes to it.
        data: placeholder for ``--data`` in the command.
        images: number of training images.
        detector: whether the recipe trains a detector.
    """

    metrics: tuple[str, ...]
    recipe: str
    settings: dict[str, Scalar] = {}
    data: str
    images: PositiveInt
    detector: bool = False


class Table(_Record):
    """One table: its rows, how to reproduce them and, for an architecture table, the lines of its body."""

    table: str
    section: str
    caption: str
    rows: tuple[Row, ...]
    reproduce: tuple[Reproduction, ...] = ()
    classes: dict[str, str] = {}
    layout: tuple[LayoutRow, ...] = ()

    def reproduction(self, metric: str) -> Reproduction | None:
        """Return how to reproduce a metric of this table, ``None`` if the paper does not say."""
        return next((each for each in self.reproduce if metric in each.metrics), None)


class Training(_Record):
    """Training or evaluation settings as stated in one place of a paper."""

    task: str
    where: str
    settings: dict[str, Scalar]


class Claim(_Record):
    """A number in the text that follows from a table.

    Attributes:
        key: name for references from a discrepancy.
        where: section.
        text: the claim, in short.
        of, against: numbers of the tables, as ``TABLE/KEY/NAME``.
        measure: ``"difference"`` or ``"ratio"`` of ``of`` and the largest of ``against``, or ``"value"``: ``of`` alone.
        relation: ``"equal"`` within half a ``unit``, ``"at_least"`` or ``"above"`` the ``stated`` value.
        stated: the value in the text.
        unit: one unit of its last printed digit.
        holds: whether the tables support it.
    """

    key: str | None = None
    where: str
    text: str
    of: str
    against: tuple[str, ...] = ()
    measure: Literal["difference", "ratio", "value"] = "difference"
    relation: Literal["equal", "at_least", "above"] = "equal"
    stated: float
    unit: PositiveFloat = 0.1
    holds: bool = True

    @model_validator(mode="after")
    def _sides(self) -> Claim:
        if bool(self.against) is (self.measure == "value"):
            raise ValueError("a difference or ratio needs 'against', a value has none")
        return self


class Computed(_Record):
    """A number in the text that no table contains: ``quantity`` of ``of``, or its difference from ``against``'s.

    Attributes:
        where: section.
        text: the statement, in short.
        quantity: ``"lost"`` (connections in percent; ``of`` is the number of groups); ``"macs"``, ``"params"`` or
            ``"mebibytes"`` (weights and statistics in float32) of a network; ``"top1"``, torchvision's accuracy for its
            own weights; ``"channels"`` or ``"group_channels"``, output channels of each stage or of each group there.
        of, against: networks of this package or of torchvision.
        relation: ``"equal"`` within half a ``unit`` of ``stated``, or ``"above"`` or ``"below"`` it. For channels, it
            must hold for every stage.
        stated: the value in the text.
        unit: one unit of its last printed digit.
        holds: whether it agrees.
    """

    key: str | None = None
    where: str
    text: str
    quantity: Literal["lost", "macs", "params", "mebibytes", "top1", "channels", "group_channels"]
    of: str
    against: str | None = None
    relation: Literal["equal", "above", "below"] = "equal"
    stated: float = 0
    unit: PositiveFloat = 1
    holds: bool = True


class Discrepancy(_Record):
    """A place where a paper contradicts itself, its repository or our count.

    Attributes:
        where: the place.
        what: the contradiction, in one or two sentences.
        values: numbers (``TABLE/KEY/NAME``) that should be equal but are not.
        claims: keys of the claims or computed statements that do not hold.
    """

    where: str
    what: str
    values: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


class Paper(_Record):
    """Everything that one paper states."""

    paper: str
    title: str
    authors: str
    reference: str
    code: str | None = None
    tables: tuple[Table, ...]
    training: tuple[Training, ...]
    claims: tuple[Claim, ...]
    computed: tuple[Computed, ...] = ()
    discrepancies: tuple[Discrepancy, ...]

    @model_validator(mode="after")
    def _references(self) -> Paper:
        for table in self.tables:
            keys = [row.key for row in table.rows]
            if repeated := {key for key in keys if keys.count(key) > 1}:
                raise ValueError(f"table {table.table} has two rows called {', '.join(sorted(repeated))}")
        known = {claim.key for claim in self.claims} | {each.key for each in self.computed}
        for discrepancy in self.discrepancies:
            for reference in discrepancy.values:
                self.value(reference)
            if unknown := set(discrepancy.claims) - known:
                raise ValueError(f"no claim is called {', '.join(sorted(unknown))}")
        for claim in self.claims:
            self.evaluate(claim)
        return self

    def table(self, name: str) -> Table:
        """Return a table by its number as printed (``"II"``, ``"5"``; ``"readme"`` for the repository's)."""
        for table in self.tables:
            if table.table == name:
                return table
        raise InputError(f"{self.paper} has no table {name!r}: expected {', '.join(t.table for t in self.tables)}")

    def row(self, table: str, key: str) -> Row:
        """Return a row by its table and key."""
        rows = {row.key: row for row in self.table(table).rows}
        if key not in rows:
            raise InputError(f"table {table} of {self.paper} has no row {key!r}{did_you_mean(key, rows)}")
        return rows[key]

    def value(self, reference: str) -> float:
        """Return the number at ``TABLE/KEY/NAME``, such as ``II/vgg16/top1``."""
        parts = reference.split("/")
        if len(parts) != 3:
            raise InputError(f"expected TABLE/KEY/NAME, such as II/vgg16/top1, found {reference!r}")
        return self.row(parts[0], parts[1]).value(parts[2])

    def evaluate(self, claim: Claim) -> float:
        """Return the value, difference or ratio that the tables give for ``claim``."""
        if claim.measure == "value":
            return self.value(claim.of)
        of, against = self.value(claim.of), max(map(self.value, claim.against))
        return of / against if claim.measure == "ratio" else round(of - against, 6)

    def holds(self, claim: Claim) -> bool:
        """Whether the tables support ``claim``."""
        found = self.evaluate(claim)
        if claim.relation == "equal":
            return math.isclose(found, claim.stated, rel_tol=0, abs_tol=claim.unit / 2 + 1e-9)
        return found > claim.stated if claim.relation == "above" else found >= claim.stated
