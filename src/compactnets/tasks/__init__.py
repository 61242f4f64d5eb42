"""The registry of tasks.

One line in :data:`TASKS` registers a task. :func:`compactnets.tasks.opening.open_model` opens the files of any task.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from compactnets.errors import InputError, did_you_mean
from compactnets.tasks.contract import Task
from compactnets.training.checkpoint import DEFAULT_TASK

# name -> "module:attribute" of its Task; imported on first use
TASKS = {
    "classification": "compactnets.classification.task:TASK",
    "multilabel": "compactnets.multilabel.task:TASK",
    "segmentation": "compactnets.segmentation.task:TASK",
    "detection": "compactnets.detection.task:TASK",
}


def find_task(name: str) -> Task[Any]:
    """Return a task by its name.

    Raises:
        InputError: no task has this name.
    """
    if name not in TASKS:
        raise InputError(f"no task is called {name!r}{did_you_mean(name, TASKS)}: expected one of {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    task = getattr(importlib.import_module(module), attribute)
    assert isinstance(task, Task)
    return task


def task_of_data(names: Sequence[str]) -> Task[Any]:
    """Return the task that some data belong to: the first that claims them, or the default task."""
    for task in (find_task(name) for name in TASKS if name != DEFAULT_TASK):
        if any(task.holds(each) for each in names):
            return task
    return find_task(DEFAULT_TASK)
