"""Several processes of one search: each candidate is trained by one of them, and no more than asked for."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from typing import Any

import pytest

from compactnets.search import claims
from compactnets.search.claims import ENOUGH, KNOWN, Claims, is_alive

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

ELSEWHERE = ["another-machine", 1, None]
DEAD = [socket.gethostname(), 2**22 + 1, None]  # no process has this number
TOY = {"model": "toy", "arguments": {}, "size": None}


@pytest.fixture
def study() -> Any:
    return optuna.create_study(direction="maximize")


def _claims(study: Any, wanted: int) -> tuple[Claims, list[str]]:
    said: list[str] = []
    return Claims(optuna, study, wanted, said.append), said


def _ask(study: Any, owner: list[Any], width: int | None = None, **attributes: Any) -> Any:
    """A trial as another process asks for it; with a width, its network is known."""
    trial = study.ask()
    trial.set_user_attr("owner", owner)
    if width is not None:
        trial.suggest_int("width", 0, 99)
        attributes["candidate"] = {**TOY, "arguments": {"width": width}}
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    return trial


def _end(study: Any, trial: Any) -> None:
    trial.report(50.0, 1)
    study.tell(trial, 50.0)


def test_claims_count_before_their_networks_are_known(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that ask at once for the last one: the lower number stays."""
    first, second = _ask(study, ELSEWHERE), _ask(study, ELSEWHERE)
    _end(study, _ask(study, ELSEWHERE, 1))
    ours, _ = _claims(study, 3)
    third = _ask(study, ELSEWHERE)
    later = threading.Timer(0.2, lambda: (first.set_user_attr("candidate", TOY), second.set_user_attr("candidate", 2)))
    later.start()
    assert ours.admit(third, {**TOY, "size": 9}) == ENOUGH
    later.join()
    assert study.trials[third.number].state.name == "FAIL"
    assert ours.admit(second, {**TOY, "size": 8}) is None
    assert ours.admit(first, TOY) is None


def test_a_network_is_trained_once(study: Any) -> None:
    ours, _ = _claims(study, 9)
    _end(study, _ask(study, ELSEWHERE, 1))
    refused = _ask(study, ELSEWHERE, 2, reason="over the budget")
    study.tell(refused, state=optuna.trial.TrialState.PRUNED)
    mine = _ask(study, ELSEWHERE)
    assert ours.admit(mine, {**TOY, "arguments": {"width": 1}}) == KNOWN
    assert ours.admit(mine, {**TOY, "arguments": {"width": 2}}) is None
    assert ours.admit(mine, {**TOY, "arguments": {"width": 3}}) is None


def test_a_process_waits_for_what_others_train(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL", 0.01)
    ours, said = _claims(study, 2)
    _end(study, _ask(study, ELSEWHERE, 1))
    theirs = _ask(study, ELSEWHERE, 2)
    later = threading.Timer(0.2, lambda: _end(study, theirs))
    later.start()
    assert ours.next() is None
    later.join()
    assert len(said) == 1
    assert "candidate 1 (process 1 on another-machine)" in said[0]
    assert ours.done == 2


def test_it_trains_another_where_theirs_fails(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL", 0.01)
    ours, _ = _claims(study, 1)
    theirs = _ask(study, ELSEWHERE, 2)

    def fail() -> None:
        theirs.set_user_attr("reason", "no memory")
        study.tell(theirs, state=optuna.trial.TrialState.PRUNED)

    later = threading.Timer(0.2, fail)
    later.start()
    trial = ours.next()
    later.join()
    assert trial is not None
    assert trial.number == 1
    assert ours.admit(trial, TOY) is None


def test_what_a_dead_process_left_is_taken_over_by_one(study: Any) -> None:
    """Two that notice it at once queue it twice; the second is withdrawn."""
    left = _ask(study, DEAD, 7, costs={"macs": 1.0})
    width = left.params["width"]
    left.report(20.0, 1)
    _ask(study, DEAD)  # asked for, and nothing more
    ours, _ = _claims(study, 1)
    ours._take_over()
    study.enqueue_trial({"width": width}, {"again": left.number, "candidate": {**TOY, "arguments": {"width": 7}}})
    trial = ours.next()
    assert trial is not None
    assert trial.user_attrs["costs"] == {"macs": 1.0}
    assert dict(trial.user_attrs["reported"]) == {1: 20.0}
    assert trial.suggest_int("width", 0, 99) == width
    assert ours.admit(trial, {**TOY, "arguments": {"width": 7}}) is None
    _end(study, trial)
    assert ours.next() is None
    more, _ = _claims(study, 2)
    new = more.next()
    assert new is not None
    assert "candidate" not in new.user_attrs
    assert Counter(each.state.name for each in study.trials) == {"FAIL": 3, "COMPLETE": 1, "RUNNING": 1}


def test_networks_for_comparison_are_queued_once(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL", 0.01)
    ours, _ = _claims(study, 1)
    ours.queue(["a", "b"])
    ours.queue(["a"])
    study.enqueue_trial({}, {"compared": "a"})  # of a process that looked before that
    names = []
    for _ in range(2):
        trial = ours.next()
        assert trial is not None
        names.append(trial.user_attrs.get("compared"))
        _end(study, trial)
    assert names == ["a", "b"]
    last = ours.next()
    assert last is not None
    assert "compared" not in last.user_attrs
    _end(study, last)
    theirs = _ask(study, ELSEWHERE, compared="c")
    later = threading.Timer(0.2, lambda: _end(study, theirs))
    later.start()
    assert ours.next() is None
    assert study.trials[theirs.number].state.name == "COMPLETE"


def test_a_trial_without_an_owner_is_given_up_after_a_while(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL", 0.01)
    monkeypatch.setattr(claims, "UNOWNED", 0.3)
    study.ask()
    ours, _ = _claims(study, 1)
    start = time.monotonic()
    trial = ours.next()
    assert trial is not None
    assert time.monotonic() - start > 0.25


def test_a_number_that_another_process_has_now_is_not_the_same_process() -> None:
    host, parent = socket.gethostname(), os.getppid()
    assert is_alive(host, parent)
    assert is_alive(host, parent, claims._begin(parent))
    if claims._begin(parent) is not None:
        assert not is_alive(host, parent, "1")
    assert not is_alive(*DEAD)
    assert not is_alive(host, os.getpid())  # an earlier search of this process
    assert is_alive(*ELSEWHERE)
