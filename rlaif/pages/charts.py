"""Charts as inline SVG: text is escaped, colours are the page's CSS variables, points carry their numbers as
tooltips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]
MOST_POINTS = 300  # a longer curve is averaged: more cannot be seen at this width


@dataclass(frozen=True)
class Line:
    """One curve; `slot` names its colour."""

    name: str
    points: Sequence[Point]
    slot: str = "last"


@dataclass(frozen=True)
class Dot:
    """A value with its interval; `slot` names its colour."""

    value: float
    ci: tuple[float, float]
    slot: str
    note: str = ""


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that cover [low, high]."""
    if not high > low:
        room = max(abs(low) * 0.1, 0.05)
        high, low = low + room, low - room
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number as an axis shows it."""
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.1e}"


def _long(value: float) -> float:
    """About how many pixels an axis's number takes."""
    return 7.0 * len(short(value))


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points: finite ones, averaged in equal groups."""
    finite = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    size = math.ceil(len(finite) / MOST_POINTS) or 1
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart and its scales."""

    width: float
    height: float
    left: float
    bottom: float
    x: list[float]
    y: list[float]
    top: float = 10
    right: float = 14

    def at(self, x: float, y: float) -> tuple[str, str]:
        """Pixel coordinates of a point."""
        across = (x - self.x[0]) / (self.x[-1] - self.x[0])
        up = (y - self.y[0]) / (self.y[-1] - self.y[0])
        px = self.left + across * (self.width - self.left - self.right)
        py = self.height - self.bottom - up * (self.height - self.bottom - self.top)
        return f"{px:.1f}", f"{py:.1f}"

    def axes(self, x_label: str) -> list[Markup]:
        """Horizontal grid lines with numbers, numbers along the bottom, and what the bottom counts."""
        parts: list[Markup] = []
        for tick in self.y:
            x, y = self.at(self.x[0], tick)
            end, _ = self.at(self.x[-1], tick)
            parts.append(_line(x, y, end, y, "grid"))
            parts.append(_text(float(x) - 6, float(y) + 4, short(tick), "end"))
        for tick in self.x:
            x, y = self.at(tick, self.y[0])
            parts.append(_text(float(x), float(y) + 16, short(tick), "middle"))
        middle = (self.left + self.width - self.right) / 2
        return [*parts, _text(middle, self.height - 4, x_label, "middle")]


def _line(x1: object, y1: object, x2: object, y2: object, css: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(x1, y1, x2, y2, css)


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> Markup:
    mark = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>')
    return mark.format(x, y, anchor, css, text)


def _circle(x: str, y: str, r: float, css: str, tip: str) -> Markup:
    mark = Markup('<circle cx="{}" cy="{}" r="{:.1f}" class="{}"><title>{}</title></circle>')
    return mark.format(x, y, r, css, tip)


def _svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    head = Markup(
        '<svg viewBox="0 0 {0:.0f} {1:.0f}" style="max-width:{0:.0f}px" role="img" aria-label="{2}">'
    )
    return head.format(width, height, title) + Markup("\n").join(parts) + Markup("</svg>")


def line_chart(title: str, lines: Sequence[Line], x_label: str = "update", ends: bool = False) -> Markup:
    """Curves over a common x, with a dot at the end of each where `ends`; empty where there is no finite
    point."""
    drawn = [(line, thinned(line.points)) for line in lines]
    points = [p for _, curve in drawn for p in curve]
    if not points:
        return Markup("")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across, up = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    # The numbers at the left stand before the plot, the last one below it is centred on its edge.
    left, right = max(44.0, 12 + max(map(_long, up))), max(14.0, 2 + _long(across[-1]) / 2)
    frame = Frame(330, 190, left, 34, across, up, right=right)
    parts = frame.axes(x_label)
    for line, curve in drawn:
        parts += _curve(frame, line, curve)
        if ends and curve:
            x, y = curve[-1]
            parts.append(
                _circle(*frame.at(x, y), 4, f"dot {line.slot}", f"{line.name}, last: {y:.4g} at {x:.4g}")
            )
    named = dict.fromkeys((line.slot, line.name) for line in lines)
    legend = Markup("").join(Markup('<i class="{}"></i>{} ').format(slot, name) for slot, name in named)
    caption = legend if len(named) > 1 else Markup("&nbsp;")
    body = _svg(frame.width, frame.height, title, parts)
    return Markup("<figure><figcaption><b>{}</b><br>{}</figcaption>{}</figure>").format(title, caption, body)


def _curve(frame: Frame, line: Line, curve: Sequence[Point]) -> list[Markup]:
    if not curve:
        return []
    path = " ".join(",".join(frame.at(x, y)) for x, y in curve)
    marks = [
        _circle(*frame.at(x, y), 5, "hit", f"{line.name}: {y:.4g} at {x:.4g}") for x, y in thinned(curve)
    ]
    return [Markup('<polyline points="{}" class="curve {}"/>').format(path, line.slot), *marks]


def dot_chart(title: str, rows: Sequence[tuple[str, Sequence[Dot]]], span: Point = (0.0, 1.0)) -> Markup:
    """One row a label, its dots with whiskers below one another; a line at 0 where the span crosses it."""
    most = max((len(dots) for _, dots in rows), default=0)
    if not most:
        return Markup("")
    step, pad, left = 11.0, 13.0, 190.0
    tall = most * step + pad
    height = tall * len(rows) + 34
    frame = Frame(800, height, left, 28, ticks(*span, about=5), [0.0, 1.0], top=4)
    parts: list[Markup] = []
    for tick in frame.x:
        x, y = frame.at(tick, 0.0)
        parts.append(_line(x, "4", x, y, "zero" if tick == 0 and span[0] < 0 else "grid"))
        parts.append(_text(float(x), float(y) + 16, short(tick), "middle"))
    for index, (label, dots) in enumerate(rows):
        top = 4 + index * tall
        parts.append(_text(left - 12, top + tall / 2 + 4, _cut(label), "end", "label"))
        for place, dot in enumerate(dots):
            y = f"{top + pad / 2 + step * (place + 0.5):.1f}"
            parts += [_whisker(frame, dot, y), _dot(frame, dot, y, label)]
    return Markup('<div class="wide">{}</div>').format(_svg(frame.width, height, title, parts))


def _whisker(frame: Frame, dot: Dot, y: str) -> Markup:
    low, high = (frame.at(max(frame.x[0], min(frame.x[-1], edge)), 0)[0] for edge in dot.ci)
    return _line(low, y, high, y, f"whisker {dot.slot}")


def _dot(frame: Frame, dot: Dot, y: str, label: str) -> Markup:
    tip = f"{label}{' — ' + dot.note if dot.note else ''}: {dot.value:.3f} [{dot.ci[0]:.3f}, {dot.ci[1]:.3f}]"
    return _circle(frame.at(dot.value, 0)[0], y, 4.2, f"dot {dot.slot}", tip)


def _cut(label: str, most: int = 27) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def calibration_chart(bins: Sequence[Sequence[float]], whose: str = "the reward model") -> Markup:
    """Observed against forecast with the diagonal; a dot's area is its share of the pairs."""
    if not bins:
        return Markup("")
    scale = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    frame = Frame(300, 300, 40, 38, scale, scale)
    parts = frame.axes(f"{whose}'s probability")
    parts.append(_line(*frame.at(0, 0), *frame.at(1, 1), "zero"))
    total = sum(n for *_, n in bins)
    for forecast, observed, n in bins:
        radius = 2.5 + 12 * math.sqrt(n / total)
        tip = f"forecast {forecast:.2f}, observed {observed:.2f}, {n:.0f} pairs"
        parts.append(_circle(*frame.at(forecast, observed), radius, "dot soft last", tip))
    return _svg(frame.width, frame.height, "Calibration", parts)


def share_chart(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> Markup:
    """One bar a label, cut into (name, share of the whole, colour), with the shares as tooltips."""
    if not rows:
        return Markup("")
    tall, left, height = 20.0, 190.0, 20.0 * len(rows) + 34
    frame = Frame(800, height, left, 28, ticks(0.0, 1.0, about=5), [0.0, 1.0], top=4)
    parts: list[Markup] = []
    for tick in frame.x:
        x, y = frame.at(tick, 0.0)
        parts += [_line(x, "4", x, y, "grid"), _text(float(x), float(y) + 16, short(tick), "middle")]
    for index, (label, shares) in enumerate(rows):
        top, start = 4 + index * tall, 0.0
        parts.append(_text(left - 12, top + tall / 2 + 4, _cut(label), "end", "label"))
        for name, share, slot in shares:
            x, end = (float(frame.at(value, 0)[0]) for value in (start, start + share))
            parts.append(
                _box(x, top + 3, end - x, tall - 6, f"dot {slot}", 1.0, f"{label}, {name}: {share:.3f}")
            )
            start += share
    return Markup('<div class="wide">{}</div>').format(_svg(frame.width, height, title, parts))


def matrix_chart(
    title: str, names: Sequence[str], cells: Mapping[Point, tuple[float, str]], slot: str
) -> Markup:
    """A square of names by names: the darker a cell, the nearer its value in [0, 1] is to 1.

    `cells` holds (value, what the tooltip says) by (row, column); columns are numbered as the rows are.
    """
    if not cells:
        return Markup("")
    size = max(12.0, min(34.0, 420.0 / len(names)))
    left, top = 190.0, 24.0
    parts = [_text(left + (at + 0.5) * size, top - 8, str(at + 1), "middle") for at in range(len(names))]
    for row, name in enumerate(names):
        parts.append(
            _text(left - 10, top + (row + 0.5) * size + 4, f"{_cut(name, 22)} {row + 1}", "end", "label")
        )
    for (row, column), (value, tip) in cells.items():
        x, y = left + column * size, top + row * size
        parts.append(_box(x + 1, y + 1, size - 2, size - 2, "cell", 1.0, tip))
        parts.append(_box(x + 1, y + 1, size - 2, size - 2, f"dot {slot}", value, tip))
        if size >= 24:
            css = "over" if value > 0.6 else ""
            parts.append(_text(x + size / 2, y + size / 2 + 4, f"{100 * value:.0f}", "middle", css))
    side = size * len(names)
    return _svg(left + side + 8, top + side + 8, title, parts)


def _box(x: float, y: float, width: float, height: float, css: str, opacity: float, tip: str) -> Markup:
    mark = Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1" class="{}" '
        'fill-opacity="{:.2f}"><title>{}</title></rect>'
    )
    return mark.format(x, y, max(0.0, width), height, css, opacity, tip)
