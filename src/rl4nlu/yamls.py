"""YAML files -> checked nodes: plain values only, bounded however often an anchor is named, no key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

LARGEST, DEEPEST = 20_000, 50
"""Values in a file, each counted as often as it is named, and how deep they may lie in each other."""
_CORE = "tag:yaml.org,2002:"
KINDS = {_CORE + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
EXPECTED = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError)
"""What PyYAML raises of a file that is none: a 13th month, a number of 5000 digits, a list as a key."""


def nodes(path: Path, text: str) -> Any:
    """The root of a YAML file, None if it is empty.

    Raises:
        UserError: it is no YAML, or holds what no file of this program needs.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except EXPECTED as wrong:
        raise _unreadable(path, wrong) from None
    if root is not None:
        _walk(root, path, ())
    return root


def values(path: Path, text: str) -> Any:
    """The plain values in a YAML file.

    Raises:
        UserError: as `nodes`; or a value is not what it looks like.
    """
    root = nodes(path, text)
    loader = yaml.SafeLoader("")
    try:
        return None if root is None else loader.construct_document(root)
    except EXPECTED as wrong:
        raise _unreadable(path, wrong) from None
    finally:
        loader.dispose()


def _walk(node: Any, path: Path, at: tuple[str, ...], count: int = 0) -> int:
    """How many values there are so far."""
    line = f"{path}:{node.start_mark.line + 1}"
    count += 1
    if len(at) > DEEPEST or count > LARGEST:
        raise UserError(f"{line}: too much for one file, or an anchor (&) stands within itself")
    if node.tag not in KINDS:
        raise UserError(f"{line}: plain values are read only, and {node.tag.removeprefix(_CORE)!r} is asked for here")
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            count = _walk(item, path, (*at, "-"), count)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{path}:{key.start_mark.line + 1}: a name is needed here, and no list of values")
            here = (*at, str(key.value))
            if here[-1] in seen and key.tag != f"{_CORE}merge":
                raise UserError(f"{path}:{key.start_mark.line + 1}: {'.'.join(here)} stands there twice; remove one")
            seen.add(here[-1])
            count = _walk(value, path, here, _walk(key, path, here, count))
    return count


def _unreadable(path: Path, wrong: Exception) -> UserError:
    mark = getattr(wrong, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    why = getattr(wrong, "problem", None) or ("cannot be parsed" if isinstance(wrong, yaml.YAMLError) else wrong)
    return UserError(f"{path}{line}: not valid YAML ({str(why)[:200]}); mend this line")
