"""A sweep file becomes a checked, resolved `Plan`, and what is asked of it before anything is trained.

Importing this package imports neither torch nor ray.
"""

from attnlab.config.resolved import Arm, Plan
from attnlab.plan.load import load, read, resolve

__all__ = ["Arm", "Plan", "load", "read", "resolve"]
