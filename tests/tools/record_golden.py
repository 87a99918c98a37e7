"""Record the golden rows of tasks that have none; those that are recorded stay, unless they are named.

python tests/tools/record_golden.py [TASK ...]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tasks.test_golden import GOLDEN, SYNTHETIC, rows_of  # noqa: E402


def main() -> None:
    """Write the file anew."""
    golden = json.loads(GOLDEN.read_text())
    golden |= {name: rows_of(name) for name in SYNTHETIC if name not in golden or name in sys.argv[1:]}
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
