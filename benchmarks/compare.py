"""Compares a record with the last one stored for the same hardware, and says what has become slower."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 0.2
# What a figure depends on most; memory is rounded and says little.
_HARDWARE = ("cpu", "cores", "extensions")


@dataclass(frozen=True)
class Change:
    """One measure, before and now; `slowdown` 2 is twice the time or memory, or half the quality."""

    name: str
    unit: str
    before: float
    now: float
    slowdown: float

    @property
    def regressed(self) -> bool:
        return not self.slowdown <= 1 + TOLERANCE  # NaN has regressed


def same_hardware(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in _HARDWARE)


def last_stored(folder: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest record with measures in `folder` of the same benchmark and hardware as `record`."""
    found = [
        stored
        for stored in (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
        if stored.get("benchmark") == record["benchmark"]
        and stored.get("measures")
        and same_hardware(stored["hardware"], record["hardware"])
    ]
    return max(found, key=lambda stored: stored.get("made", ""), default=None)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The measures that both records have with the same name and unit, in the order of the new record."""
    found = []
    for name, measure in now.get("measures", {}).items():
        old = before.get("measures", {}).get(name)
        if old is None or old["unit"] != measure["unit"]:
            continue
        worse, better = (old, measure) if measure["higher_is_better"] else (measure, old)
        slowdown = worse["value"] / better["value"] if better["value"] else float("nan")
        found.append(Change(name, measure["unit"], old["value"], measure["value"], slowdown))
    return found


def report(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[str, bool]:
    """A table of what has changed, and whether anything regressed by more than `TOLERANCE`."""
    name = now["benchmark"]
    if not now.get("measures"):
        return f"{name}: nothing in it is compared", False
    if before is None:
        hardware = f"{now['hardware']['cpu']}, {now['hardware']['cores']} cores"
        return f"{name}: no stored record of this hardware ({hardware}) to compare with", False
    found = changes(before, now)
    since = f"{before.get('made', 'an undated record')} (commit {before['versions'].get('commit')})"
    lines = [f"{name}: against {since}"]
    for change in found:
        mark = f"REGRESSED, more than {TOLERANCE:.0%}" if change.regressed else ""
        lines.append(
            f"  {change.name:52} {change.before:12.4g} -> {change.now:10.4g} {change.unit:8} "
            f"x {change.slowdown:5.2f}  {mark}".rstrip()
        )
    missing = [name for name in now["measures"] if name not in {change.name for change in found}]
    if missing:
        lines.append(f"  not in the stored record: {', '.join(missing)}")
    return "\n".join(lines), any(change.regressed for change in found)


def storage_path(folder: Path, record: Mapping[str, Any]) -> Path:
    """`<benchmark>.json`; if that is a record of other hardware, a name that includes the hardware."""
    path = folder / f"{record['benchmark']}.json"
    if path.exists() and not same_hardware(json.loads(path.read_text())["hardware"], record["hardware"]):
        hardware = record["hardware"]
        slug = re.sub(r"[^a-z0-9]+", "-", f"{hardware['cpu']} {hardware['cores']} cores".lower()).strip("-")
        path = folder / f"{record['benchmark']}.{slug}.json"
    return path


def from_pytest(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `pytest --benchmark-json` wrote, as the figures and measures of a record.

    The tests put their measures into `extra_info["measures"]`.
    """
    figures, measures = {}, {}
    for one in data["benchmarks"]:
        extra = dict(one["extra_info"])
        measures.update(extra.pop("measures", {}))
        kept = ("min", "median", "max", "mean", "stddev", "rounds")
        figures[one["name"]] = {**{key: one["stats"][key] for key in kept}, **extra}
    return figures, measures
