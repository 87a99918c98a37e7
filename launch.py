"""Run sweeps:  python launch.py sweeps/quickstart.yaml [more.yaml ...] [key=value ...]; --help says more."""

import sys

from attnlab.util import command

if __name__ == "__main__":
    command.answer_ctrl_c()

from attnlab.cli import main  # noqa: E402 - it takes a second, in which Ctrl-C is answered already

if __name__ == "__main__":
    sys.exit(command.run(main))
