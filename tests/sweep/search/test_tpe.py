"""TPE over a window of a long study."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from attnlab.sweep.search import tpe

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def study_of(count, direction="minimize"):
    study = optuna.create_study(direction=direction)
    xs = [(i * 0.618) % 1 for i in range(count)]
    study.add_trials(
        create_trial(params={"x": x}, distributions=SPACE, value=abs(x - 0.3))
        if i % 3
        else create_trial(params={"x": x}, distributions=SPACE, state=TrialState.PRUNED, intermediate_values={1: 1 + x})
        for i, x in enumerate(xs)
    )
    return study


def asked(study, kind):
    study.sampler = kind(seed=7, constant_liar=True, n_startup_trials=5)
    return study.ask(SPACE).params["x"]


def test_a_study_of_usual_length_is_searched_as_by_tpe():
    assert asked(study_of(300), tpe.WindowedTPE) == asked(study_of(300), optuna.samplers.TPESampler)


def test_beyond_the_window_it_is_tpe_over_the_window(monkeypatch):
    monkeypatch.setattr(tpe, "NEWEST", 40)
    monkeypatch.setattr(tpe, "BEST", 10)
    study = study_of(300)
    part = optuna.create_study()
    part.add_trials(tpe.window(study.get_trials(), study.direction))
    assert len(part.trials) == 50
    assert asked(study, tpe.WindowedTPE) == asked(part, optuna.samplers.TPESampler)


@pytest.mark.parametrize(("direction", "pick"), [("minimize", min), ("maximize", max)])
def test_the_window_keeps_the_best_however_old(monkeypatch, direction, pick):
    monkeypatch.setattr(tpe, "NEWEST", 40)
    monkeypatch.setattr(tpe, "BEST", 10)
    study = study_of(300, direction)
    kept = tpe.window(study.get_trials(), study.direction)
    older = [t for t in study.get_trials(states=[TrialState.COMPLETE]) if t.number < 260]
    best = sorted(older, key=lambda t: t.value, reverse=pick is max)[:10]
    assert {t.number for t in kept[:-40]} == {t.number for t in best} and pick(older, key=lambda t: t.value) in best
    assert [t.number for t in kept[-40:]] == list(range(260, 300))
    assert [t.number for t in kept] == sorted({t.number for t in kept})


def test_a_setting_without_a_past_is_drawn_as_by_tpe():
    def drawn(kind):
        study = study_of(30)
        study.sampler = kind(seed=7, constant_liar=True, n_startup_trials=5)
        return study.ask({**SPACE, "new": FloatDistribution(2.0, 3.0)}).params

    assert drawn(tpe.WindowedTPE) == drawn(optuna.samplers.TPESampler) and 2.0 <= drawn(tpe.WindowedTPE)["new"] <= 3.0


def test_a_window_shows_the_states_asked_for():
    seen = tpe._Window(study_of(9))._get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    assert [trial.number for trial in seen] == [0, 3, 6]
    window = tpe._Window(study_of(9))
    assert [trial.number for trial in window.get_trials(False, (TrialState.PRUNED,))] == [0, 3, 6]
    assert [trial.number for trial in window.trials] == list(range(9)) and window.best_value == study_of(9).best_value
