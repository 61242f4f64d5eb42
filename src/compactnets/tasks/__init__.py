"""The tasks, and what lies at a path.

:data:`TASKS` is all that there is to registering one: a line. :func:`compactnets.tasks.opening.open_model` opens what
any of them has written.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from compactnets.errors import InputError, did_you_mean
from compactnets.tasks.contract import Task
from compactnets.training.checkpoint import DEFAULT_TASK

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


def task_of_data(names: Sequence[str]) -> Task[Any]:
    """Return the task whose data these are: the first besides the default that says so, or else the default."""
    for task in (find_task(name) for name in TASKS if name != DEFAULT_TASK):
        if any(task.holds(each) for each in names):
            return task
    return find_task(DEFAULT_TASK)
