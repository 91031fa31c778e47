"""What was measured against what was aimed at: one table, one JSON file, one chart."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape
from math import log10
from pathlib import Path

from bench.measuring import Race

OUT = Path(__file__).with_name("out")
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    measure: str
    value: float
    unit: str
    goal: str
    met: bool | None
    """None when there is no goal: shown to be compared."""
    detail: str


class Report:
    """Collects; prints each figure as it comes, because a run takes minutes."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.races: list[tuple[str, Race]] = []

    def at_least(self, goal: float, measure: str, value: float, detail: str, unit: str = "x") -> None:
        """More is better."""
        self._add(Figure(measure, value, unit, f">= {goal:g}{_unit(unit)}", value >= goal, detail))

    def at_most(self, goal: float, measure: str, value: float, detail: str, unit: str = "x") -> None:
        """Less is better."""
        self._add(Figure(measure, value, unit, f"<= {goal:g}{_unit(unit)}", value <= goal, detail))

    def shown(self, measure: str, value: float, detail: str, unit: str = "x") -> None:
        """Without a goal."""
        self._add(Figure(measure, value, unit, "", None, detail))

    def chart(self, title: str, race: Race) -> None:
        """One group of bars."""
        self.races.append((title, race))

    def write(self, *, docs: bool) -> None:
        """Write what a whole run found; with `docs` also into the documentation."""
        OUT.mkdir(exist_ok=True)
        entries = [
            {"measure": each.measure, "value": round(each.value, 4), "goal": each.goal, "met": each.met}
            for each in self.figures
        ]
        (OUT / "latest.json").write_text(json.dumps(entries, indent=1) + "\n")
        (OUT / "latest.md").write_text(self.markdown())
        (OUT / "latest.svg").write_text(svg(self.races))
        if docs:
            (DOCS / "performance.svg").write_text(svg(self.races))
            page = DOCS / "performance.md"
            page.write_text(
                re.sub(
                    r"^\| measure \|.*?\n(?=\n)",
                    lambda _: self.markdown(),
                    page.read_text(),
                    count=1,
                    flags=re.MULTILINE | re.DOTALL,
                )
            )

    def markdown(self) -> str:
        """The table."""
        rows = [("measure", "value", "goal", "met", "what was spent"), ("---",) * 5]
        rows += [(each.measure, _value(each), each.goal, _verdict(each.met), each.detail) for each in self.figures]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def _add(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(
            f"{figure.measure:88} {_value(figure):>9} {figure.goal:>10} {_verdict(figure.met):6} {figure.detail}",
            flush=True,
        )


def _unit(unit: str) -> str:
    return "" if unit == "x" else f" {unit}"


def _value(figure: Figure) -> str:
    places = 0 if figure.value >= 100 else 1 if figure.value >= 10 else 2  # noqa: PLR2004 - three digits
    digits = f"{figure.value:,.{places}f}"
    return digits + _unit(figure.unit)


def _verdict(met: bool | None) -> str:  # noqa: FBT001 - not a switch
    return "" if met is None else "yes" if met else "NO"


_LEFT, _WIDTH, _ROW, _LEAST, _MOST = 230, 430, 17, 0.3, 40.0
_STYLE = (  # a picture in a page follows the page: light or dark
    "<style>:root{color-scheme:light dark;--ink:#1f2937;--soft:#6b7280;--grid:#e5e7eb;--own:#2563eb;--other:#9ca3af}"
    "@media (prefers-color-scheme:dark){:root{--ink:#e5e7eb;--soft:#9ca3af;--grid:#374151;--own:#60a5fa;"
    "--other:#6b7280}}text{fill:var(--ink)}.tick{fill:var(--soft)}.title{font-weight:bold}rect{fill:var(--other)}"
    ".own{fill:var(--own)}line{stroke:var(--grid)}</style>"
)


def svg(races: list[tuple[str, Race]]) -> str:
    """Bars on a logarithmic scale: CPU, esazure is 1."""

    def place(ratio: float) -> float:
        share = (log10(min(max(ratio, _LEAST), _MOST)) - log10(_LEAST)) / (log10(_MOST) - log10(_LEAST))
        return _LEFT + share * _WIDTH

    out: list[str] = []
    top = 24.0
    for title, race in races:
        milliseconds = race.typical("esazure").cpu * 1e3
        out.append(f'<text x="8" y="{top + 12}" class="title">{escape(title)}: esazure {milliseconds:.3g} ms</text>')
        top += _ROW + 2
        for name in sorted(race.taken, key=lambda name: race.ratio(name, "esazure")):
            ratio = race.ratio(name, "esazure")
            own = ' class="own"' if name == "esazure" else ""
            out.append(f'<text x="{_LEFT - 8}" y="{top + 11}" text-anchor="end">{escape(name)}</text>')
            out.append(f'<rect x="{_LEFT}" y="{top}" width="{place(ratio) - _LEFT:.1f}" height="13"{own}/>')
            out.append(f'<text x="{place(ratio) + 5:.1f}" y="{top + 11}">{ratio:.2g}</text>')
            top += _ROW
        top += 9
    lines = [
        f'<line x1="{place(tick):.1f}" x2="{place(tick):.1f}" y1="18" y2="{top}"/>'
        f'<text x="{place(tick):.1f}" y="13" text-anchor="middle" class="tick">{tick:g}</text>'
        for tick in (0.5, 1, 2, 5, 10, 20)
    ]
    width = _LEFT + _WIDTH + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top:.0f}" font-family="sans-serif"'
        ' font-size="12">'
        f"<title>CPU of the client process, esazure is 1</title>{_STYLE}\n" + "\n".join(lines + out) + "\n</svg>\n"
    )
