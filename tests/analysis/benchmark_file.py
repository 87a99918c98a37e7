"""A made-up benchmark_results.json."""

from attnlab.util.files import write_json


def write_benchmarks(fake, rights, chance=0.25, **more):
    """`rights`: {benchmark: {arm: right or wrong per item}}."""
    arms = {}
    for name, by_arm in rights.items():
        for arm, right in by_arm.items():
            entry = {
                "benchmark": name, "n": len(right), "metric": "acc", "value": float(sum(right)) / len(right),
                "chance": chance, "higher_is_better": True, "limited": False,
                "metrics": {"acc": {"how": "proportion", "column": "acc"}},
                "items": {"id": [f"i{i}" for i in range(len(right))], "acc": [int(x) for x in right]}, **more,
            }  # fmt: skip
            arms.setdefault(arm, {"error": None, "benchmarks": {}})["benchmarks"][name] = entry
    path = fake.folder.analysis / "benchmark_results.json"
    write_json(path, {"format": 1, "arms": arms})
    return path
