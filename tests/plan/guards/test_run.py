"""What all guards found together: errors at once, the rest as a record."""

from types import SimpleNamespace

import pytest

from attnlab.plan.guards import run
from attnlab.util.errors import UserError


@pytest.fixture
def found(monkeypatch):
    """Run the guards of two arms that find this."""

    def make(same=(), errors=(), mixed=(), leaks=(), mode="warn"):
        seen = []

        def put(guard, **outcome):
            monkeypatch.setattr(guard, "find", lambda *given: seen.append(given) or SimpleNamespace(**outcome))

        put(run.duplicate_arms, same=same, compared=3, unsure=["u"])
        put(run.leakage, errors=errors, warnings=leaks, record=["l"])
        put(run.confounds, warnings=mixed, record={"r": 1})
        plan = SimpleNamespace(sweep=SimpleNamespace(guards=mode), arms=["a", "b"])
        notes = {"a": ["one", "two"], "b": ["two"]}
        tasks = {arm: SimpleNamespace(notes=lambda arm=arm: notes[arm]) for arm in notes}
        try:
            return run.run_guards(plan, tasks)
        finally:
            assert seen == [(plan, tasks), (tasks,), (plan, tasks)], "each guard reads the plan's own arms"

    return make


def test_findings_are_a_record(found):
    assert found(mixed=["m"], leaks=["w"]) == {
        "mode": "warn",
        "warnings": ["m", "w"],
        "no_op": {"arms": 2, "compared": 3, "unsure": ["u"]},
        "confounds": {"r": 1},
        "leakage": ["l"],
        "data": [{"arms": ["a"], "note": "one"}, {"arms": ["a", "b"], "note": "two"}],
    }


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ({"same": ["s"], "errors": ["e"], "mixed": ["m"]}, ["s", "e"]),
        ({"errors": ["e"], "mixed": ["m"], "leaks": ["w"], "mode": "strict"}, ["e", "m", "w"]),
        ({"leaks": ["w"], "mode": "strict"}, ["w"]),
    ],
)
def test_all_errors_come_at_once_and_under_strict_warnings_are_errors(found, what, lines):
    with pytest.raises(UserError) as error:
        found(**what)
    assert error.value.problems == lines
    assert found(mode="strict")["mode"] == "strict"
