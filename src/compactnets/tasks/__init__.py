"""The tasks, and what lies at a path.

:data:`TASKS` is all that there is to registering one: a line. :func:`compactnets.tasks.opening.open_model` opens what
any of them has written.
"""

from __future__ import annotations

import importlib
from typing import Any

from compactnets.errors import InputError, did_you_mean
from compactnets.tasks.contract import Task

# name -> "module:attribute" of its Task; imported when it is needed
TASKS = {
    "classification": "compactnets.classification.task:TASK",
    "detection": "compactnets.detection.task:TASK",
}


def find_task(name: str) -> Task[Any]:
    """Return a task by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in TASKS:
        raise InputError(f"no task is called {name!r}{did_you_mean(name, TASKS)}: expected one of {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    task = getattr(importlib.import_module(module), attribute)
    assert isinstance(task, Task)
    return task


def task_of_data(names: list[str] | tuple[str, ...]) -> Task[Any]:
    """Return the task whose data these are: the first one that says so, and classification where none does."""
    for name in reversed(TASKS):
        task = find_task(name)
        if name != DEFAULT and any(task.holds(each) for each in names):
            return task
    return find_task(DEFAULT)


DEFAULT = "classification"  # what records and recipes are of that state no task
