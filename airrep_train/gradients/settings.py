"""The settings of a gradient folder: written when it is begun, and the same whenever it is continued."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.folders import Layout
from airrep_infer.json_reader import read_json
from airrep_train.gradients.capture import UNNAMED_TEMPLATE, GradientCapture
from airrep_train.gradients.mapping import GradientMap
from airrep_train.gradients.options import GradientOptions
from airrep_train.gradients.warm_up import FOLDER, WarmUp

KIND = "airrep-gradients"
FORMAT = 1
SETTINGS = "gradients.json"
RAW, MAP, TIME = "raw", "map", "time.json"
LAYOUT = Layout("a gradient folder", SETTINGS, files=FOLDER, early=rf"\.lock|{FOLDER}")
_COPIED = rf"{FOLDER}|{RAW}|{re.escape(TIME)}"
JOINED = Layout("a gradient folder", SETTINGS, files=_COPIED, early=rf"\.lock|{_COPIED}")
"""The same, of shards: what they have is there before its settings are."""


def describe(capture: GradientCapture, options: GradientOptions, warmed: WarmUp | None) -> dict[str, Any]:
    """What vectors of a capture depend on."""
    # A folder of before there were warm-ups is one without.
    identity = options.capture_identity() | (warmed.settings if warmed else {})
    return {
        "kind": KIND,
        "format_version": FORMAT,
        "target": capture.target_fingerprint,
        "layers": capture.layers,
        "template": capture.template,
        "options": identity,
    }


def start_folder(output: Path, settings: dict[str, Any], layout: Layout = LAYOUT) -> None:
    """Write the settings into a new folder; refuse to continue one that was begun with others.

    Raises:
        InputError: see `check_folder`.
    """
    check_folder(output, settings, layout)
    if not layout.is_at(output):
        layout.make(output)
        write_json(output / SETTINGS, settings)


def check_folder(output: Path, settings: dict[str, Any], layout: Layout = LAYOUT) -> None:
    """Refuse a place where no folder of these settings is, and none can be made.

    Raises:
        InputError: a folder that was begun with other settings, and the message names what differs; or
            something else.
    """
    layout.check(output)
    if layout.is_at(output):
        _check(output, settings)


def _check(output: Path, settings: dict[str, Any]) -> None:
    before = read_settings(output)
    now = json.loads(json.dumps(settings))
    if now["map"] is not None:  # that map's are the dims, whatever a folder was asked for
        before["options"] = {**before["options"], "dims": now["options"]["dims"]}
        # Earlier versions joined shards by a map that was named, and wrote down that there was none.
        unnamed = before.get("map") is None and (output / MAP).is_dir()
        if unnamed and GradientMap.load(output / MAP).fingerprint == now["map"]:
            before["map"] = now["map"]
    before_flat, now_flat = ({**s, **s["options"]} for s in (before, now))
    different = [
        f"{key} was {before_flat.get(key)!r}, now {value!r}"
        for key, value in now_flat.items()
        if key not in ("options", "layers") and before_flat.get(key) != value
    ]
    if different or before != now:
        what = "; ".join(different) or "other layers"
        raise InputError(f"{output}: was started with other settings: {what}; use those, or another -o")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a gradient folder; those of earlier versions name the only template that there was.

    Raises:
        InputError: it is none, or of another format.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise InputError(
            f"{folder}: not a gradient folder (no {SETTINGS}); make it with `airrep-train gradients`"
        )
    settings: dict[str, Any] = read_json(path)
    if settings.get("kind") != KIND or settings.get("format_version") != FORMAT:
        raise InputError(
            f"{path}: {settings.get('kind')!r} of format {settings.get('format_version')!r}, expected "
            f"{KIND!r} of format {FORMAT}"
        )
    return {"template": UNNAMED_TEMPLATE, **settings}
