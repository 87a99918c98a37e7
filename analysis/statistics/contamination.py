"""Signs that a benchmark's score is memory rather than what was learnt, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.scores import ScoredBenchmark
from attnlab.util.text import listed, value_text

SEEN = 0.01  # of a benchmark's items in the training text, from which on a sentence says so; fewer are in the table
# What makes a score look memorised where no copy was found; chosen by us, not estimated. Of what lies above chance:
LEAP = 0.25  # an arm leads the next one by this much on one benchmark,
ELSEWHERE = 0.05  # and by no more than this on any other
CEILING = 0.9  # or every arm is above this


def signs(tables: Sequence[ScoredBenchmark]) -> list[str]:
    """What is in the training text, then scores that nothing else about the arm supports."""
    return [*copies(tables), *leaps(tables)]


def copies(tables: Sequence[ScoredBenchmark]) -> list[str]:
    """Benchmarks with over SEEN of their items in a training text; scores on the rest."""
    out = []
    for table in tables:
        by_text: dict[tuple[str, frozenset[str]], list[str]] = {}
        for arm, score in table.scores.items():
            if (overlap := score.overlap) and len(overlap.seen) > SEEN * overlap.n:
                by_text.setdefault((overlap.corpus, overlap.seen), []).append(arm)
        for (corpus, seen), arms in by_text.items():
            ids = table.scores[arms[0]].values
            rest = [i for i in ids if i not in seen]
            line = (
                f"{table.name}: {len(seen):,} of {len(ids):,} items stand word for word in the text that {listed(arms)}"
                f" {'was' if len(arms) == 1 else 'were'} trained on ({corpus}), so the score is memory at least in part"
            )
            if rest and not any(score.logarithm for score in table.scores.values()):
                on = [f"{arm} {value_text(sum(s.values[i] for i in rest) / len(rest))}"
                      for arm, s in table.scores.items() if all(i in s.values for i in rest)]  # fmt: skip
                line += f"; on the other {len(rest):,}, {table.metric} is {listed(on)}"
            out.append(line + ".")
    return out


def leaps(tables: Sequence[ScoredBenchmark]) -> list[str]:
    """An arm far ahead on one benchmark alone; every arm near the ceiling."""
    usable = {t.name: t for t in tables if t.mode == "max" and t.chance is not None and len(t.scores) > 1}
    gains = {name: {arm: (s.interval.value - t.chance) / (1 - t.chance) for arm, s in t.scores.items()}
             for name, t in usable.items()}  # fmt: skip
    out = []
    for name, table in usable.items():
        gain = gains[name]
        first, second = sorted(gain, key=lambda arm: -gain[arm])[:2]
        if min(gain.values()) > CEILING:
            why = "so it separates nothing; items like these may be in the training data"
            out.append(f"{name}: every arm is near the ceiling, {why}.")
        others = [g[first] - max(v for arm, v in g.items() if arm != first)
                  for other, g in gains.items() if other != name and first in g and len(g) > 1]  # fmt: skip
        ahead = any(p.better("max") == first for p in table.pairs if {p.a, p.b} == {first, second})
        if others and ahead and gain[first] - gain[second] > LEAP and max(others) <= ELSEWHERE:
            lead = f"{first} leads {second} by {100 * (gain[first] - gain[second]):.0f} % of what lies above chance"
            check = f"check that {first} was not trained on its items"
            out.append(f"{name}: {lead}, and leads on no other benchmark; {check}.")
    return out
