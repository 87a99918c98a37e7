"""Run sweeps:  python launch.py sweeps/quickstart.yaml [more.yaml ...] [key=value ...]; --help says more."""

import sys

from attnlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
