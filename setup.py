"""Packaging: metadata, dependencies and extras. Versions that were tested together are pinned in constraints.txt."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "torch>=2.11",
    "triton>=3.7.1; platform_system == 'Linux' and platform_machine == 'x86_64'",  # 3.4 to 3.7.0 break FLA on Hopper
    "flash-linear-attention>=0.6,<0.7",
    "transformers>=5.17",
    "ray[tune,train]>=2.60,<2.61",
    "optuna>=5",
    "cmaes>=0.12",
    "tensorboard>=2.20",
    "datasets>=5",
    "pyyaml>=6",
    "numpy>=2",
    "pydantic>=2.10",
    "rich>=13",
    "safetensors>=0.5",
    "tokenizers>=0.22",
    "filelock>=3.15",
    "wrapt>=1.16",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "scipy>=1.13",
    "statsmodels>=0.14.4",
    "scikit-learn>=1.5",  # of Optuna's fANOVA
]
EVAL = ["lm-eval>=0.4.13"]
INTERACTIVE = ["plotly>=6"]  # figures to hover over, with `python -m analysis --interactive`
# accelerate: lm-eval's own model, which ours is held against, imports it
TEST = [
    *EVAL,
    *INTERACTIVE,
    "accelerate>=1.10",
    "pytest>=8,<9.2",  # pytest-xdist 3.8 forms no groups with 9.2
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "psutil>=5.9",
    "moto[s3]>=5.1",  # with flask: an S3 server for the tests
    "flask>=3",
    "flask-cors>=5",
]
LINT = ["ruff>=0.14", "mypy>=1.18", "types-PyYAML", "import-linter>=2.5", "codespell>=2.4"]

setup(
    name="attnlab",
    version=runpy.run_path("attnlab/version.py")["__version__"],
    description="Which sequence mixer is better, at my size, on my data, on my hardware, and how sure are we?",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["attnlab", "attnlab.*", "analysis", "analysis.*"]),
    py_modules=["launch"],
    package_data={"attnlab.data": ["corpus/*"], "analysis.report": ["templates/*"], "analysis.benchmarks": ["data/*"]},
    install_requires=CORE,
    extras_require={
        "eval": EVAL,
        "interactive": INTERACTIVE,
        "cluster": ["ray[default]>=2.60,<2.61", "boto3>=1.34"],  # jobs, dashboard; the autoscaler on AWS
        "test": TEST,
        "dev": [*TEST, *LINT, "mutmut>=3.8.1,<3.9"],  # of mutmut the operators, which tests/tools/mutation.py imports
    },
    entry_points={"console_scripts": ["attnlab = attnlab.cli:command_line"]},
)
