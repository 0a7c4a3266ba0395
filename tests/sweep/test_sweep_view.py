"""What a sweep shows: failures, durations, and how long is left."""

from __future__ import annotations

import json

import pytest

from compositional.sweep.execution import Progress
from compositional.sweep.steps import Artefact, Contents, Kind, Step
from compositional.sweep.view import duration, seconds_to_go, summary
from compositional.sweep.worker import FAILED, Event


def test_the_summary_shows_the_last_lines_of_what_failed(tmp_path):
    steps = [Step(Kind.PREDICT, "one", ("--experiment_name", "one"), "group")]
    progress = Progress(steps, tmp_path)
    status = progress.status_of("group")
    status.write_text(json.dumps({"name": "one", "state": "failed", "seconds": 2.0}) + "\n")
    bar = "".join(f"\rtrain: {percent} %" for percent in range(100))
    after = "$ python run_experiment.py --experiment_name other\nerror: another one\n"
    progress.log_of("group").write_text(f"\n$ python run_experiment.py --experiment_name one\n{bar}\nerror: it is broken\n{after}")
    assert [event.state for event in progress.update()] == [FAILED]
    assert progress.update() == []
    shown = summary(progress).splitlines()
    assert shown[0] == "0 done, 1 failed, 0 skipped"
    assert [line.strip() for line in shown[-3:]] == [
        "$ python run_experiment.py --experiment_name one",
        "train: 99 %",
        "error: it is broken",
    ]


def test_what_is_left_takes_as_long_as_its_kind_did_side_by_side_as_so_far():
    def step(name: str, kind: Kind) -> Step:
        return Step(kind, name, (), name, makes=(Artefact(Contents.PREDICTIONS, name),))

    trained, predicted = (
        [step(f"t{number}", Kind.TRAIN) for number in range(3)],
        [step(f"p{number}", Kind.PREDICT) for number in range(4)],
    )
    judged = Step(Kind.JUDGE, "p0", (), "judge")
    steps = [*trained, *predicted, judged]
    states = {one.name: Event(one.name, "waiting") for one in steps}
    assert seconds_to_go(steps, states, 50.0) is None
    states |= {name: Event(name, "done", seconds) for name, seconds in (("t0", 80.0), ("p0", 10.0), ("p1", 0.1), ("t1", 100.0))}
    states["p2"] = Event("p2", "skipped")
    # 90 s of training and 10 s of prediction are left; 190 s of work were done in 95 s.
    assert seconds_to_go(steps, states, 95.0) == pytest.approx(50.0)


def test_durations_are_in_words():
    assert [duration(seconds) for seconds in (5, 61, 3599, 7500)] == ["5 s", "1 min", "1 h 0 min", "2 h 5 min"]
