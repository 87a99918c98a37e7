"""How an arm was tuned: counts, the best after each trial, and where the best settings lie."""

import pytest

from attnlab.config.space import parse
from attnlab.ranking.search_coverage import Extension, edges, number_of, tuning_summary
from tests.ranking.test_leaderboard import result
from tests.sweep.search.test_searcher import sweep_of


def summary(*results, extension=None, **changes):
    return tuning_summary(sweep_of(**changes), "a", results, extension)


def tried(value, lr, number, state="completed"):
    return result(value, state, number=number, **{"optim.lr": lr})


def test_a_trials_number_is_in_its_id():
    assert number_of({"trial_id": "t1023-abc-1"}) == 1023


def test_it_counts_all_that_ended_and_follows_the_best_by_number():
    ended = [tried(2.0, 0.1, 1), tried(3.0, 0.01, 0), tried(0.0, 0.02, 2, "diverged"), tried(1.0, 0.03, 3, "pruned")]
    row = summary(*ended, search={"trials": 4}, confirm={"seeds": [1, 2]})
    assert (row["asked"], row["extended"], row["ended"], row["searched"]) == (6, 0, 4, 1)
    assert (row["completed"], row["pruned"], row["diverged"], row["failed"]) == (2, 1, 1, 0)
    assert (row["steps"], row["tokens"], row["device_seconds"]) == (32, 256, 16.0)
    assert row["best_by_trials"] == [3.5, 2.5, 2.5, 2.5], "only a completed trial's last report counts"
    assert row["settings"]["optim.lr"]["value"] == 0.1 and row["repeated"] == 0
    assert summary(tried(None, 0.1, 0), tried(2.0, 0.1, 1))["best_by_trials"] == [None, 2.5]


def test_of_equal_values_the_earlier_trial_is_the_best():
    assert summary(tried(1.0, 0.01, 0), tried(1.0, 0.1, 1))["settings"]["optim.lr"]["value"] == 0.01


@pytest.mark.parametrize(("numbers", "repeated"), [((0, 1), None), ((0, 1, 2), 0), ((0, 2, 5), 3), ((), None)])
def test_repeated_suggestions_are_the_numbers_left_out_once_the_search_has_ended(numbers, repeated):
    assert summary(*(tried(1.0, 0.1, n) for n in numbers), search={"trials": 3})["repeated"] == repeated


def test_an_extension_asks_for_more_in_other_ranges():
    wide = Extension(2, {"a": {"optim.lr": parse({"loguniform": [1e-5, 1e-1]})}})
    row = summary(*(tried(1.0, 1e-3, n) for n in range(3)), extension=wide, search={"trials": 3})
    assert (row["asked"], row["extended"], row["repeated"]) == (5, 2, None)
    assert row["settings"]["optim.lr"] == {"value": 1e-3, "low": 1e-5, "high": 1e-1, "place": 0.5, "edge": None}


LOG = {"loguniform": [1.0, 10.0]}


@pytest.mark.parametrize(
    ("form", "value", "others", "edge"),
    [
        ({"uniform": [0.0, 100.0]}, 5.0, (), "lower"),  # within a twentieth of an end
        ({"uniform": [0.0, 100.0]}, 5.01, (), None),
        ({"uniform": [0.0, 100.0]}, 95.0, (), "upper"),
        ({"uniform": [0.0, 100.0]}, 94.9, (), None),
        ({"loguniform": [1e-4, 1e-2]}, 1e-4 * 100**0.049, (), "lower"),
        ({"loguniform": [1e-4, 1e-2]}, 1e-4 * 100**0.051, (), None),
        ({"choice": [1.0, 2.0, 3.0]}, 1.0, (2.0,), "lower"),
        ({"choice": [1.0, 2.0, 3.0]}, 3.0, (2.0,), "upper"),
        ({"choice": [1.0, 2.0, 3.0]}, 2.0, (1.0,), None),
        ({"choice": [1.0, 2.0, 3.0]}, 1.0, (), None),  # no second one was tried
        ({"choice": [1.0, 2.0]}, 1.0, (2.0,), None),  # both of two are ends
    ],
    ids=str,
)
def test_where_the_best_setting_lies_at_an_edge(form, value, others, edge):
    ended = [result(1.0, number=0, **{"model.dropout": value})]
    ended += [result(2.0, number=i, **{"model.dropout": other}) for i, other in enumerate(others, 1)]
    space = Extension(0, {"a": {"model.dropout": parse(form)}})
    assert summary(*ended, extension=space)["settings"]["model.dropout"]["edge"] == edge


@pytest.mark.parametrize(
    ("trials", "edge"),
    [
        ([(1.0, 1e-4), (1.0, 1e-4)], None),  # two alike tell nothing apart
        ([(1.0, 1e-4)], "lower"),
        ([(1.0, 1e-4), (2.0, 1e-2)], "lower"),
        ([(1.0, 1e-4), (1.0, 1.1e-4), (2.0, 1e-2)], "lower"),
        ([(1.0, 1e-4), (1.0, 1e-1), (2.0, 1e-2)], None),  # as good at the other end
        ([(1.0, 1e-4), (1.0, 1e-2), (2.0, 1e-2)], None),  # as good in the middle
        ([(2.0, 1e-2), (1.0, 1e-1), (1.0, 0.09)], "upper"),
    ],
)
def test_trials_as_good_as_the_best_must_lie_at_the_same_edge(trials, edge):
    ended = [tried(value, lr, number) for number, (value, lr) in enumerate(trials)]
    assert summary(*ended)["settings"]["optim.lr"]["edge"] == edge


def test_a_dimension_that_the_best_trial_lacks_is_left_out():
    assert summary(result(1.0, number=0))["settings"] == {} and summary()["settings"] == {}


def test_edges_say_what_to_do():
    def line(edge, low):
        setting = {"value": 0.00012345, "low": low, "high": 0.1, "edge": edge}
        return edges("gla", {"settings": {"optim.lr": setting, "other": {**setting, "edge": None}}})

    (lower,), (upper,), (zero,) = line("lower", 1e-4), line("upper", 0), line("lower", 0)
    assert lower == (
        "gla: its best optim.lr, 0.000123, lies at the lower edge of the range [0.0001, 0.1]; "
        "the optimum may lie beyond it, so widen the range."
    )
    assert "beyond it" in upper and "0 itself may be best." in zero
