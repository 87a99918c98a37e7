"""From a sweep file to a checked, resolved `Plan`, and what is checked before training.

Importing this package imports neither torch nor ray.
"""

from attnlab.config.resolved import Arm, Plan
from attnlab.plan.load import load, read, resolve

__all__ = ["Arm", "Plan", "load", "read", "resolve"]
