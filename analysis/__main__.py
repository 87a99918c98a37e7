"""`python -m analysis RESULTS/SWEEP`; see `analysis.command_line`."""

import sys

from attnlab.util import command

if __name__ == "__main__":
    command.answer_ctrl_c()

from analysis.command_line import main  # noqa: E402 - it takes a second, in which Ctrl-C is answered already

if __name__ == "__main__":
    sys.exit(command.run(main, orderly=True))
