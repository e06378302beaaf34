"""What a misspelt name may have meant: among known names, or among the files that lie there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

CUTOFF, LENIENT = 0.6, 0.5
"""Names are alike from this ratio on; of three letters or fewer from the lower one, for one of them is a lot."""
LONGEST, MOST = 200, 5000
"""Letters of a name, and entries of a folder, that are looked at."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a misspelt one is most like.

    Upper and lower case, `-`, `_` and spaces make no difference. A name with parts (`glue/rte`, `lora.r`) is also found
    by its last part alone, and by that part behind another suite or group.

    Args:
        name: as it was typed.
        known: what it may be.

    Returns:
        The most alike; several that are equally so, in the order of `known`; none if nothing is like it.
    """
    if not name or len(name) > LONGEST:
        return []
    found = {one: _likeness(name, one) for one in known}
    best = max(found.values(), default=0.0)
    return [one for one, likeness in found.items() if likeness == best] if best else []


def nearest_path(path: Path) -> Path | None:
    """The file or folder whose path is most like one that is not there; None if none is like it."""
    sound = Path(path.anchor) if path.anchor else Path()
    for part in path.parts[1 if path.anchor else 0 :]:
        try:
            if part == ".." or (sound / part).exists():
                sound = sound / part
                continue
            with os.scandir(sound) as entries:
                names = [entry.name for entry, _ in zip(entries, range(MOST), strict=False)]
        except (OSError, ValueError):  # too long, not allowed; a zero byte
            return None
        stem, kind = _stem_and_kind(part)
        of_kind = {one: name for name in sorted(names) for one, other in [_stem_and_kind(name)] if other == kind}
        of_name = {other: name for name in sorted(names) for one, other in [_stem_and_kind(name)] if one == stem}
        alike = [of_kind[one] for one in nearest(stem, of_kind)] or ([*of_name.values()] if kind else [])
        if not alike:
            return None
        sound = sound / alike[0]
    return sound


def _stem_and_kind(name: str) -> tuple[str, str]:
    """`("train", ".csv")`; what has digits behind its dot is a name: lr-0.5."""
    found = re.fullmatch(r"(.+?)(\.[A-Za-z]\w*)?", name)
    return (found[1], found[2] or "") if found else (name, "")


def _likeness(name: str, known: str) -> float:
    """From 0 (not alike) to 1 (the same but for its spelling)."""
    a, b = _bare(name), _bare(known)
    if a == b:
        return 1.0
    last_a, last_b = (re.split(r"[/.]", text)[-1] for text in (a, b))
    if last_a == last_b and last_a:
        return 0.99
    if (last_a, last_b) == (a, b):
        return _ratio(a, b)
    return max(_ratio(a, b), 0.95 * _ratio(last_a, last_b))


def _ratio(a: str, b: str) -> float:
    ratio = _matching(a, b)
    if len(a) >= 3 and b.startswith(a):  # begun, and left at that
        return max(ratio, 0.8 + 0.1 * ratio)
    return ratio if ratio >= (LENIENT if len(a) in (2, 3) else CUTOFF) else 0.0


def _matching(a: str, b: str) -> float:
    import difflib  # not before something is wrong

    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


def _bare(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.casefold())
