"""What answers in a second loads neither torch nor ray; which package may import which, import-linter says."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not module.ispkg:
            importlib.import_module(f"{name}.{module.name}")
print(sorted({"fla", "ray", "torch", "transformers"} & set(sys.modules)))
"""


def loaded(*names):
    """Which of the heavy libraries a fresh process has loaded with these packages and all their modules."""
    done = subprocess.run([sys.executable, "-c", CODE, *names], capture_output=True, text=True, check=True)
    return done.stdout


LIGHT = [
    "attnlab.util",
    "attnlab.config",
    "attnlab.records",
    "attnlab.ranking",
    "attnlab.plan.load",
    "attnlab.plan.gpu_packing",
]


def test_configuration_ranking_and_loading_a_plan_load_no_heavy_library():
    assert loaded(*LIGHT) == "[]\n"
