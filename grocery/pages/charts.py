"""Charts of a page: marks over two axes, and bars. The template ``parts.html`` draws them.

They are coloured by the page's style, so they follow its light or dark theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10
from typing import Any, Self

_MOST_TICKS, _LONGEST = 7, 18


@dataclass(frozen=True)
class Axis:
    """One axis: its title in words, the values that it spans, and those that are written at it."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False
    crowded: bool = False  # what is written needs two lines

    @classmethod
    def numbers(
        cls,
        title: str,
        values: Sequence[float],
        *,
        log: bool = False,
        text: Callable[[float], str] = "{:g}".format,
    ) -> Self:
        """An axis from a round number to a round one, with all values (at least one) between.

        It is logarithmic with `log`, if all values are more than 0, and its title says so.
        """
        low, high = min(values), max(values)
        log = log and low > 0
        if log:
            title += ", logarithmic scale"
            exponents = range(floor(log10(low)) - 1, ceil(log10(high)) + 2)
            at = [float(f"{m}e{e}") for e in exponents for m in (1, 2, 5)]
        else:
            span = (high - low) or abs(low) or 1.0
            unit = 10.0 ** floor(log10(span / 4))
            step = next(m * unit for m in (1, 2, 5, 10) if span / (m * unit) <= 5)
            step = max(step, 1.0) if all(isinstance(value, int) for value in values) else step
            if low == high:
                low, high = low - step, high + step
            first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
            at = [round(n * step, 12) for n in range(first, last + 1)]
        start = max((value for value in at if value <= low), default=at[0])
        end = min((value for value in at if value >= high and value > start), default=at[-1])
        ticks = [value for value in at if start <= value <= end]
        if len(ticks) > _MOST_TICKS:  # powers of ten
            ticks = [value for value in ticks if f"{value:e}".startswith("1.0")]
        return cls(title, start, end, [(value, text(value)) for value in ticks], log)

    @classmethod
    def places(cls, title: str, count: int, names: dict[int, str]) -> Self:
        """An axis of `count` places, 0, 1, 2 ..., all as wide, of which some have names."""
        ticks = [(at, n if len(n) <= _LONGEST else f"{n[:_LONGEST]}…") for at, n in names.items()]
        return cls(title, -0.5, count - 0.5, ticks, crowded=len(ticks) > 2)

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, at, high = (log10(v) if self.log else v for v in (self.low, value, self.high))
        return (at - low) / (high - low)


@dataclass
class Chart:
    """Marks over two axes; each is an SVG element with its attributes, and what is said of it."""

    title: str
    x: Axis
    y: Axis
    # What the marks mean: the class of each in the style, or "" for none, and words.
    key: Sequence[tuple[str, str]] = ()
    marks: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    # Of the view box, and of the marks in it.
    width, height = 480, 260
    left, right, top, bottom = 56, 466, 30, 204

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where values lie in the view box."""
        across = self.left + self.x.share(x) * (self.right - self.left)
        return round(across, 1), round(self.bottom - self.y.share(y) * (self.bottom - self.top), 1)

    def dot(self, kind: str, x: float, y: float, said: str) -> None:
        """A round mark."""
        cx, cy = self.place(x, y)
        self.marks.append(("circle", {"class": f"dot {kind}", "cx": cx, "cy": cy, "r": 4.5}, said))

    def square(self, kind: str, x: float, y: float, said: str) -> None:
        """A square mark."""
        left, top = (round(value - 4, 1) for value in self.place(x, y))
        place = {"class": kind, "x": left, "y": top, "width": 8, "height": 8}
        self.marks.append(("rect", place, said))

    def line(self, kind: str, *points: tuple[float, float]) -> None:
        """A line from point to point."""
        d = "L".join(f"{x} {y}" for x, y in (self.place(*point) for point in points))
        self.marks.append(("path", {"class": kind, "d": f"M{d}" if d else ""}, ""))

    def steps(self, kind: str, edges: Sequence[float], heights: Sequence[float]) -> None:
        """A histogram's outline: the height of each bin between two edges."""
        bins = zip(edges, edges[1:], heights, strict=False)
        tops = [(end, height) for low, high, height in bins for end in (low, high)]
        self.line(kind, (edges[0], self.y.low), *tops, (edges[-1], self.y.low))


@dataclass(frozen=True)
class Bars:
    """Bars below each other, each row with a name."""

    title: str
    axis: str  # what the numbers are
    key: Sequence[tuple[str, str]]
    # Of each row its name, class in the style and length (0 to 1) of each bar, and the numbers.
    rows: Sequence[tuple[str, Sequence[tuple[str, float]], str]]
