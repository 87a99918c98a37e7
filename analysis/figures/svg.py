"""Matplotlib figures as small SVG, for files of their own or many on one page.

Text stays text: it can be searched, and scales with the page's zoom. Ids get the figure's name as a prefix, because
matplotlib uses the same ids in every figure and a page must not hold an id twice.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from attnlab.util.files import text_digest

INK, GREY, GRID = "#222222", "#767676", "#e4e4e4"
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "attnlab", "font.family": ["DejaVu Sans"], "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.formatter.useoffset": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7,
    "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "text.parse_math": False,  # an arm may be called $x$
    "legend.frameon": False, "legend.handlelength": 2.6, "lines.linewidth": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One figure: a file-safe name, what it shows in words, and its `<svg>` element."""

    name: str
    label: str
    svg: Markup
    width: int  # of the drawing, in CSS pixels at full size


def new(width: float, height: float) -> Figure:
    """An empty figure, inches; draw on it inside `mpl.rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def render(figure: Figure, name: str, label: str) -> Plot:
    """The figure as SVG; screen readers read the label out instead."""
    buffer = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's reader has other fonts
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r' d="[^"]*"', _shorter, text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{_safe(name)}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return Plot(name, label, Markup(text), round(figure.get_figwidth() * 96))


def shown(name: str) -> str:
    """A name as a legend shows it. matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _safe(name: str) -> str:
    """A name as the beginning of an id: other names, other ids, without what markup or CSS would end it at."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if plain == name else f"{plain}-{text_digest(name, 8)}"


def _shorter(path: re.Match[str]) -> str:
    """A path's coordinates to two decimals of a point, on one line."""
    return " " + " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path[0]).split())


def file_text(plot: Plot) -> str:
    """The same as a file."""
    return f'<?xml version="1.0" encoding="utf-8"?>\n{plot.svg}\n'
