"""Several processes of one search from one command: each trains candidates of the study until enough are trained."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack, suppress
from multiprocessing import connection, parent_process

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.latency.process import Worker, wait
from compactnets.search.study import Request, Search
from compactnets.stopping import stoppable


def train_by_workers(search: Search) -> None:
    """Train the candidates of a search in as many processes as its request says.

    One that fails is reported, and the others go on, also with what it had begun. Ctrl-C and SIGTERM stop all, after
    they have saved their runs; a second one ends them at once.

    Raises:
        InputError: workers failed, and fewer candidates are trained than requested.
    """
    failures = []
    with ExitStack() as stack:
        workers = {}
        for number in range(1, search.request.workers + 1):
            worker = Worker(quiet=False)
            stack.callback(worker.close)
            workers[worker] = number
            worker.start(train_in_worker, search.request, number)
        try:
            with stoppable():
                while workers:
                    for worker in wait(workers):
                        number = workers.pop(worker)
                        try:
                            worker.result()
                        except InputError as error:
                            failures.append(str(error))
                            say(f"worker {number} failed: {error}")
                        worker.close()  # what it trained is taken over once it is gone
        except BaseException:
            say("stopping the workers, which save their runs")
            for worker in workers:
                worker.stop()
            for worker in workers:
                with suppress(InputError):
                    worker.result()
            raise
    if failures and search.claims.done < search.request.trials:
        raise InputError(
            f"{len(failures)} of {search.request.workers} workers failed, the last one so: {failures[-1]}; rerun the "
            f"command to go on"
        )


def train_in_worker(request: Request, number: int) -> None:
    """Train candidates in this process, as worker ``number`` of those that one command has started."""
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    with stoppable():
        search = Search(request, number)
        search.measure()
        search.train()


def _stop_without_parent() -> None:
    """Stop as by SIGTERM when the process that started this one is gone, be it by kill -9."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
