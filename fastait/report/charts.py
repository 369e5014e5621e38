"""Line charts as SVG that stands in a page: its text in the page's letters, its colours those of the page's theme.

Drawn by matplotlib, in colours of no meaning that are then replaced by the names of the page's. The same points give
the same bytes with one version of matplotlib.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

Point = tuple[float, float]

COLOURS = 7
"""How many the page has for series, ``--s0`` and so on: those of Okabe and Ito, which can be told apart with deficient
colour vision. Dashes and markers differ too, so that prints without colours can be read."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MARKERS = "os^Dv"
"""So many of each that 140 series differ in one of the three."""

_INK, _GRID = "#010101", "#020202"
_NAMES = {_INK: "--ink", _GRID: "--grid"} | {f"#0300{i:02x}": f"--s{i}" for i in range(COLOURS)}

_SIZE = 3.6, 2.35  # inches: what a telephone shows at its size

_SHOWN_MARKERS = 8
"""On a long line; on a short one each point has its marker."""


@dataclass(frozen=True)
class Line:
    """A series.

    Attributes:
        points: x and y, in the order of x; finite.
        series: its place among the page's series, which decides how it is drawn.
        best: the x that was chosen as the best, drawn as a ring.
        collapsed: the x where the training collapsed, drawn as a cross.
    """

    points: Sequence[Point]
    series: int
    best: float | None = None
    collapsed: float | None = None


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: what is on the y axis, for those who cannot see it too.
        x, y: what is on the axes, with units.
        lines: the series.
        percent: whether the y axis is 0 to 100.
        from_zero: whether the y axis begins at 0.
        log_x, log_y: whether an axis is logarithmic.
        levels: horizontal lines with their names, such as chance.
        marks: vertical lines with their names, such as the budget of the training.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    percent: bool = False
    from_zero: bool = False
    log_x: bool = False
    log_y: bool = False
    levels: Sequence[tuple[float, str]] = ()
    marks: Sequence[tuple[float, str]] = ()


def draw(chart: Chart, name: str) -> Markup:
    """The SVG element.

    Args:
        chart: what it shows.
        name: of the chart in the page, no two alike: what its parts are called depends on it.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    settings: Any = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
        "axes.formatter.useoffset": False,
    }
    with rc_context(settings):
        sheet, panel = _panel()
        for line in chart.lines:
            _draw_line(panel, line)
        for level, text in chart.levels:
            panel.axhline(level, color=_INK, lw=0.8, ls=":")
            panel.annotate(text, (1, level), (0, 2), **_BESIDE, ha="right", color=_INK)
        for mark, text in chart.marks:
            panel.axvline(mark, color=_INK, lw=0.8, ls=":")
            panel.annotate(text, (mark, 1), (0, 2), **_ABOVE, ha="center", color=_INK)
        if chart.percent:
            panel.set(ylim=(-3, 103), yticks=range(0, 101, 20))
        elif chart.from_zero:
            panel.set_ylim(0, 1.05 * max(y for line in chart.lines for _, y in line.points) or 1)
        if chart.log_x:
            _logarithmic(panel.xaxis, [x for line in chart.lines for x, _ in line.points])
        else:
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=chart.x == "epoch", min_n_ticks=1))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if chart.log_y:
            _logarithmic(panel.yaxis, [y for line in chart.lines for _, y in line.points])
        elif not chart.percent:
            panel.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        panel.set_xlabel(chart.x, color=_INK)
        panel.set_ylabel(chart.y, color=_INK)
        return _element(_document(sheet), chart.title)


class Samples:
    """How series are drawn, for legends; no two of one page have parts of the same name."""

    def __init__(self) -> None:
        self.drawn: dict[int, str] = {}
        self.count = 0

    def __call__(self, series: int) -> Markup:
        """An SVG element."""
        if series not in self.drawn:
            self.drawn[series] = str(_element(_sample(series), ""))
        self.count += 1
        return Markup(re.sub(r"(id=\"|#)([mp][0-9a-f]{10})\b", rf"\1\2-{self.count}", self.drawn[series]))


_BESIDE: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 8}
_ABOVE: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8}


def _panel() -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    sheet = Figure(_SIZE, layout="constrained")
    FigureCanvasSVG(sheet)
    panel = sheet.subplots()
    panel.grid(color=_GRID, lw=0.6)
    panel.tick_params(colors=_INK)
    for side, spine in panel.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))
    panel.set_axisbelow(True)
    return sheet, panel


def _style(series: int) -> dict[str, Any]:
    return {
        "color": f"#0300{series % COLOURS:02x}",
        "ls": DASHES[series % len(DASHES)],
        "marker": MARKERS[series % len(MARKERS)],
        "lw": 1.4,
        "markersize": 3.5,
    }


def _draw_line(panel: Any, line: Line) -> None:
    style = _style(line.series)
    step = max(1, len(line.points) // _SHOWN_MARKERS)
    # Not all on the same epochs, where lines lie upon each other.
    every = (line.series % step, step) if step > 1 else 1
    xs, ys = zip(*line.points, strict=True)
    panel.plot(xs, ys, **style, markevery=every, clip_on=False)
    found = dict(line.points)
    if line.best in found:
        ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.4}
        panel.plot([line.best], [found[line.best]], color=style["color"], ls="none", clip_on=False, **ring)
    if line.collapsed in found:
        cross = {"marker": "x", "markersize": 9, "markeredgewidth": 2.2}
        panel.plot([line.collapsed], [found[line.collapsed]], color=_INK, ls="none", clip_on=False, **cross)


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    few = sorted(set(values))
    axis.set_major_locator(FixedLocator(few) if len(few) <= 5 else LogLocator(numticks=6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _sample(series: int) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": f"sample {series}"}):
        sheet = Figure((0.5, 0.17))
        FigureCanvasSVG(sheet)
        panel = sheet.add_axes((0, 0, 1, 1))
        panel.set_axis_off()
        panel.set(xlim=(0, 2), ylim=(-1, 1))
        panel.plot([0.05, 1, 1.95], [0, 0, 0], **_style(series) | {"markersize": 4.5}, markevery=[1])
        return _document(sheet)


def _document(sheet: Any) -> str:
    """The SVG document of a figure, without a date or a version."""
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    sheet.savefig(text, format="svg", transparent=True, metadata=metadata)
    return text.getvalue()


def _element(document: str, title: str) -> Markup:
    """The element of an SVG document as it stands in a page: no names but those that its parts use."""
    element = document[document.index("<svg") :].strip()
    element = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", element, flags=re.DOTALL)
    element = re.sub(r"font-family: [^;\"]*; ?", "", element)
    element = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", element)
    element = re.sub(r"(\d\.\d\d)\d+", r"\1", element)
    for colour, name in _NAMES.items():
        element = element.replace(colour, f"var({name})")
    element = re.sub(r"\n\s*", "\n", element)
    opening = re.match(r"<svg[^>]*>", element)
    assert opening is not None
    view = re.search(r'viewBox="[^"]*"', opening[0])
    assert view is not None
    role = f'role="img" aria-label="{escape(title)}"' if title else 'aria-hidden="true"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} {role}>'
    return Markup(head + element[opening.end() :])
