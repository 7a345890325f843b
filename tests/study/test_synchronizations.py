import math

import pytest

from ropevit.study.train import learning_rate, start, take_step, train
from ropevit.tasks.training.steps import DivergedError
from synchronizations import CountSynchronizations


@pytest.mark.parametrize("panel", ["zoom", "field", "far"])
def test_a_training_step_of_a_study_never_synchronizes(make_job, panel):
    with CountSynchronizations():
        job = make_job(panel)  # notes what it keeps on the host
    state = start(job)
    with CountSynchronizations() as counted:
        take_step(state, job, 1e-3)
    assert counted.found == []


def test_a_loss_that_is_read_later_names_its_own_step_and_nothing_is_saved_after_it(make_job, monkeypatch):
    monkeypatch.setattr("ropevit.study.train.REPORT_EVERY", math.inf)
    job = make_job(settings={"steps": 200})  # a line of the log every 4 steps, a checkpoint every 20
    loss, calls = job.panel.loss, []

    def diverge(*batch):
        calls.append(loss(*batch))
        return calls[-1] * (math.inf if len(calls) == 18 else 1)

    job.panel.loss = diverge
    rate = f"{learning_rate(job.panel.settings, 17):.3g}"
    with pytest.raises(DivergedError, match=f"the loss is inf at step 18 with lr {rate}; try a lower lr"):
        train(job)
    assert len(calls) == 20
    assert not (job.folder / "checkpoint.pt").exists()
