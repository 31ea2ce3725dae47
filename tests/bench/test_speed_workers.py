"""Contenders in processes of their own: answers, and every way in which they can be lost."""

from __future__ import annotations

import os

import psutil
import pytest

from workers import Worker, WorkerError


def test_a_contender_answers_from_a_process_of_its_own() -> None:
    worker = Worker("contenders:Told", {"answer": 2.5})
    said = worker.prepare("some case")
    assert said["prepared"] == "some case" and said["process"] != os.getpid()
    assert worker.run("some case") == worker.run("another") == {"total": 2.5}
    worker.close()
    assert not psutil.pid_exists(said["process"])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("killed", "its process was ended by SIGKILL; see whether memory ran out"),
        ("ended", "its process ended with status 3"),
        ("refused", "photo.jpg: empty; replace it"),
        ("broken", "ValueError: first line"),
    ],
)
def test_a_lost_contender_is_named_with_the_reason_and_leaves_nothing(case: str, reason: str) -> None:
    worker = Worker("contenders:Told")
    process = worker.prepare("a case")["process"]
    with pytest.raises(WorkerError) as caught:
        worker.run(case)
    assert str(caught.value) == reason
    assert not psutil.pid_exists(process)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("contenders:unmade", "ImportError: No module named 'nowhere'"),
        ("nowhere:Told", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_contender_that_cannot_be_made_says_why(factory: str, reason: str) -> None:
    with pytest.raises(WorkerError, match=reason):
        Worker(factory)


def test_a_contender_that_hangs_is_given_up() -> None:
    worker = Worker("contenders:Told", patience=20)
    process = worker.prepare("a case")["process"]
    worker._patience = 0.5
    with pytest.raises(WorkerError, match=r"gave no answer within 0\.5 seconds"):
        worker.run("asleep")
    assert not psutil.pid_exists(process)
