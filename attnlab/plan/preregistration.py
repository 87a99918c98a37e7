"""What is expected of a sweep, written down before its first trial (`preregistration.json`).

It is written once. Its digest covers all but the date, so that what was put into the file later shows. What the sweep's
own file says otherwise by now is told in the report: a claim that was made after the results were seen confirms little.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from attnlab.config import words
from attnlab.config.claims import naming
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.ranking.tests import ALPHA
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.reading import parse
from attnlab.util.errors import UserError
from attnlab.util.files import json_digest, json_value, write_json
from attnlab.util.text import listed, one_line, quoted

NONE = "Not preregistered: this sweep has no preregistration.json, which is written before the first trial."


class Preregistration(TypedDict):
    """`preregistration.json`."""

    date: str  # in UTC
    digest: str  # SHA-256 of all below
    hypothesis: str
    claims: list[str]
    metric: str
    mode: str
    sesoi: float | None
    baseline: str | None
    ranges: dict[str, dict[str, Any]]  # by arm and dotted key, as the sweep file gives them
    seeds: list[int]  # of the unstopped runs
    trials: dict[str, int]  # of each arm: `search`, and what `extend` may add
    test: str  # in words


_held = TypeAdapter[Preregistration](Preregistration)


def statement(plan: Plan) -> dict[str, Any]:
    """What a plan expects, of all its arms, and how it will be judged; without date and digest."""
    sweep = plan.whole.sweep
    stated = {
        "hypothesis": sweep.hypothesis,
        "claims": list(sweep.claims),
        "metric": plan.metric,
        "mode": plan.mode,
        "sesoi": sweep.sesoi,
        "baseline": sweep.baseline,
        "ranges": {arm: _ranges(sweep, arm) for arm in sweep.arms},
        "seeds": list(plan.seeds),
        "trials": {"search": plan.quota(plan.names[0]), "extend": sweep.search.extend if sweep.search else 0},
        "test": _test(sweep),
    }
    return dict(json_value(stated))


def preregister(plan: Plan, mirror: Mirror) -> None:
    """Write preregistration.json, unless it is there or a trial has begun."""
    folder = mirror.folder
    if folder.preregistration_file.exists() or folder.trials():
        return
    stated = statement(plan)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder.preregistration_file, {"date": date, "digest": json_digest(stated, 64), **stated})
    mirror.push(folder.preregistration_file)


def registered(folder: SweepDir) -> Preregistration | None:
    """What preregistration.json holds; None without one. Raises UserError where it cannot be used."""
    path = folder.preregistration_file
    if not path.exists():
        return None
    try:
        raw = parse(path.read_bytes())
        held = _held.validate_python(raw, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: it is no preregistration ({words.first(error)})") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: it cannot be read ({one_line(error)})") from None
    if held["digest"] != json_digest({key: value for key, value in raw.items() if key not in ("date", "digest")}, 64):
        raise UserError(f"{path}: its digest is not that of what it holds, so it was changed afterwards")
    return held


def changed_since(held: Preregistration, plan: Plan) -> list[str]:
    """What a plan says otherwise than its preregistration, a sentence each.

    Arms that `--only` leaves to a later start may be missing, and with them claims and a baseline.
    """
    now, out = statement(plan), list[str]()
    common = [arm for arm in now["ranges"] if arm in held["ranges"]]
    was: dict[str, Any] = {
        **held,
        "claims": list(naming(held["claims"], plan.names)) if len(common) < len(held["ranges"]) else held["claims"],
        "baseline": held["baseline"] if held["baseline"] in plan.names else None,
    }
    out += [f"The claim {quoted(each, 120)} was added." for each in now["claims"] if each not in was["claims"]]
    out += [f"The claim {quoted(each, 120)} was taken back." for each in was["claims"] if each not in now["claims"]]
    for key in ("hypothesis", "metric", "mode", "sesoi", "baseline", "seeds", "trials"):
        if was[key] != now[key]:
            out.append(f"{key} was {_shown(was[key])} and is now {_shown(now[key])}.")
    for arm in common:
        if held["ranges"][arm] != now["ranges"][arm]:
            out.append(f"The ranges searched for {arm} were {_shown(held['ranges'][arm])}.")
    if added := [arm for arm in now["ranges"] if arm not in common]:
        out.append(f"Arms were added: {listed(added)}.")
    if missing := [arm for arm in held["ranges"] if arm not in common]:
        out.append(f"Arms that were preregistered are not in it: {listed(missing)}.")
    return out


def _ranges(sweep: Sweep, arm: str) -> dict[str, Any]:
    """What is searched for an arm, as the file gives it."""
    own = (sweep.arms[arm].get("search") or {}).get("space") or {}
    return {**sweep.search.space, **own} if sweep.search else {}


def _test(sweep: Sweep) -> str:
    """How arms will be judged, in words."""
    text = f"arms and seeds in one model, all pairs together at {ALPHA:.0%} (Tukey)"
    if sweep.baseline is not None:
        text += f", and all against {sweep.baseline} (Dunnett)"
    if sweep.sesoi is not None:
        text += f"; equivalent by two one-sided tests within {sweep.sesoi:g}"
    return text


def _shown(value: Any) -> str:
    return "not given" if value in (None, "", []) else quoted(value, 160)
