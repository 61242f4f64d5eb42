"""Search for the networks of a family that are most accurate within measured budgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compactnets.deploy.formats.registry import find_format
from compactnets.errors import InputError
from compactnets.failures import cause
from compactnets.files import as_path
from compactnets.folders import check_folder
from compactnets.search.budget import Budget
from compactnets.search.outcome import Outcome, conclude
from compactnets.search.space import parse_family
from compactnets.search.study import Request, Search
from compactnets.search.workers import train_by_workers


def find(
    data: str | Path,
    output: str | Path,
    budget: Sequence[str],
    *,
    family: str = "all",
    format_name: str = "c",
    threads: int = Request.threads,
    recipe: str | Path = Request.recipe,
    settings: Sequence[str] = Request.settings,
    trials: int = Request.trials,
    epochs: int = Request.epochs,
    rungs: int = Request.rungs,
    sizes: Sequence[int] = Request.sizes,
    compared: Sequence[str] = Request.compared,
    table: str | Path | None = Request.table,
    device_command: str | None = Request.device_command,
    storage: str | None = Request.storage,
    seed: int = Request.seed,
    workers: int = Request.workers,
    device: str = Request.device,
    download: bool = Request.download,
) -> Outcome:
    """Search for networks within a budget, and measure the best of them whole. Repeat the call to go on.

    Args:
        data: what :func:`compactnets.data.open_source` takes.
        output: folder of the study (Optuna's journal), its runs, and the result.
        budget: such as ``["latency=3ms", "macs=40M"]`` (:class:`compactnets.search.budget.Budget`).
        family: ``menet``, ``muffnet``, both with a comma, or ``all``.
        format_name: the runtime whose latency counts, and ``threads`` of it.
        recipe: of all trainings, with ``settings`` as for ``--set``.
        trials: candidates to train.
        epochs: of a candidate that is never stopped.
        rungs: how often the weaker half is stopped: after a half of the epochs, a quarter, and so on.
        sizes: sides of the images to choose from; the data's own if empty.
        compared: networks by name that are trained alike and measured with the finalists.
        table: file of the parts' latencies, which other searches may share.
        device_command: measures instead of this machine (:func:`compactnets.search.table.time_by_command`).
        storage: keeps the study instead of a file in ``output``, for several machines: a database's URL such as
            ``sqlite:///search.db``, or a file that they share. Each has its own ``output``.
        seed: of the proposals and the trainings.
        workers: processes that train at once; above 1, a script needs ``if __name__ == "__main__":``, since they import
            it.
        device: that trains.
        download: download public data that is missing.

    Raises:
        InputError: a budget, network, runtime or data that cannot be used, or no network within the budget.
        Interrupted: a signal; everything is kept, and the same call goes on.
    """
    find_format(format_name).versions()
    output = as_path(output)
    check_folder(output)
    request = Request(
        families=parse_family(family),
        budget=Budget.parse(budget),
        format_name=format_name,
        data=str(data),
        output=output,
        threads=threads,
        recipe=str(recipe),
        settings=tuple(settings),
        trials=trials,
        epochs=epochs,
        rungs=rungs,
        sizes=tuple(sizes),
        compared=tuple(compared),
        seed=seed,
        workers=workers,
        device=device,
        table=None if table is None else as_path(table),
        device_command=device_command,
        storage=storage,
        download=download,
    )
    search = Search(request)
    try:
        search.measure()
        if workers == 1:
            search.train()
        else:
            train_by_workers(search)
        return conclude(search)
    except search.optuna.exceptions.StorageInternalError as error:  # such as a server that has gone
        raise InputError(f"--storage cannot be used ({cause(error)}): rerun the command to go on") from None
