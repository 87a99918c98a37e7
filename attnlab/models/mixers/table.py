"""The table of sequence mixers, joined from the rows of `attention`, `decay` and `delta`.

A row names a class, how `d_model` and `n_heads` become its arguments, which widths it refuses, what it needs, what its
mixing costs, and what tests need to know of it; `spec` explains the fields. Everything else that a sweep file gives
passes through to the class (`checks`). None of these modules imports torch or FLA. To add an FLA layer, add a row to
its family's module; to use a layer of your own, add a row or write `my_package.my_file:MyMixer` as the mixer's name.
"""

from __future__ import annotations

from attnlab.models.mixers.attention import ATTENTION
from attnlab.models.mixers.decay import DECAY
from attnlab.models.mixers.delta import DELTAS
from attnlab.models.mixers.spec import MixerSpec

MIXERS: dict[str, MixerSpec] = {**ATTENTION, **DECAY, **DELTAS}
