"""Which scores look memorised, at the limits that are stated."""

from types import SimpleNamespace

import pytest

from analysis.statistics.contamination import copies, leaps, signs


def score(value, n=100, seen=(), corpus="novels", logarithm=False):
    overlap = SimpleNamespace(seen=frozenset(seen), n=n, corpus=corpus) if seen else None
    values = {i: float(i in range(round(value * n))) for i in range(n)}
    return SimpleNamespace(interval=SimpleNamespace(value=value), values=values, overlap=overlap, logarithm=logarithm)


class Pair(SimpleNamespace):
    def better(self, mode):
        assert mode == "max"
        return self.winner


def table(name, scores, mode="max", chance=0.0, winner=None):
    arms = list(scores)
    pairs = [Pair(a=a, b=b, winner=winner) for a in arms for b in arms if a < b]
    return SimpleNamespace(name=name, scores=scores, mode=mode, chance=chance, pairs=pairs, metric="accuracy")


@pytest.mark.parametrize(("seen", "told"), [(0, False), (1, False), (2, True)])
def test_more_than_one_item_in_a_hundred_in_the_training_text_is_told(seen, told):
    found = copies([table("exam", {"a": score(0.5, seen=range(seen)), "b": score(0.4)})])
    assert bool(found) == told


def test_it_says_what_the_other_items_give_by_text_and_by_arm():
    scores = {
        "a": score(0.5, seen=range(50)),
        "b": score(0.4, seen=range(50)),
        "c": score(0.8, seen=range(80), corpus="web"),
    }
    novels, web = copies([table("exam", scores)])
    assert novels.startswith(
        "exam: 50 of 100 items stand word for word in the text that a and b were trained on (novels)"
    )
    assert "on the other 50, accuracy is a 0.0000, b 0.0000 and c 0.6000" in novels
    assert "80 of 100 items" in web and "c was trained on (web)" in web and "on the other 20" in web
    every = copies([table("exam", {"a": score(0.5, seen=range(100))})])
    assert "on the other" not in every[0]
    assert "on the other" not in copies([table("exam", {"a": score(0.5, seen=range(9), logarithm=True)})])[0]


def two(gain, elsewhere=0.0, winner="a", **how):
    """Two benchmarks: on the first `a` leads by `gain`, on the second by `elsewhere`."""
    first = table("exam", {"a": score(0.4 + gain), "b": score(0.4)}, winner=winner, **how)
    return [first, table("other", {"a": score(0.3 + elsewhere), "b": score(0.3)}, winner=winner)]


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        (two(0.26), True),
        (two(0.24), False),
        (two(-0.26), False),
        (two(0.26, elsewhere=0.04), True),
        (two(0.26, elsewhere=0.06), False),
        (two(0.26, elsewhere=-0.2), True),
        (two(0.26, winner=None), False),  # not proven
        (two(0.26, mode="min"), False),
        (two(0.26, chance=None), False),
        (two(0.2, chance=0.25), True),  # 0.2 of the 0.75 above chance
        (two(0.18, chance=0.25), False),
        (two(0.26)[:1], False),  # nothing to hold it against
        ([two(0.26)[0], table("other", {"a": score(0.9)})], False),
        ([two(0.26)[0], table("other", {"b": score(0.9), "c": score(0.1)})], False),
    ],
)
def test_a_lead_on_one_benchmark_alone_is_told(tables, told):
    found = leaps(tables)
    assert bool(found) == told and all(line.startswith("exam: a leads b by") for line in found)


def test_the_leading_arm_is_the_best_whatever_its_place():
    tables = [table("exam", {"a": score(0.4), "b": score(0.7)}, winner="b"),
              table("other", {"a": score(0.3), "b": score(0.3)})]  # fmt: skip
    assert leaps(tables)[0].startswith("exam: b leads a by 30 %")


def test_the_lead_is_said_in_percent_of_what_lies_above_chance():
    assert "leads b by 40 % of what" in leaps(two(0.3, chance=0.25))[0]


@pytest.mark.parametrize(("value", "told"), [(0.91, True), (0.9, False)])
def test_every_arm_near_the_ceiling_is_told(value, told):
    scores = {"a": score(0.95), "b": score(value)}
    found = leaps([table("exam", scores)])
    assert bool(found) == told and all("near the ceiling, so it separates nothing" in line for line in found)
    assert not leaps([table("exam", {"a": score(0.99)})]), "a single arm is compared with nothing"


def test_copies_come_before_leaps():
    tables = two(0.26)
    tables[0].scores["b"].overlap = SimpleNamespace(seen=frozenset(range(9)), n=100, corpus="novels")
    assert [line.split()[1] for line in signs(tables)] == ["9", "a"]
