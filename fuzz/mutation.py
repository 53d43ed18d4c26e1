"""Changing inputs: bytes anywhere, and JSON by its structure, so that a change gets past the first brace.

Both runners use it: the test suite with a seeded generator, atheris as its custom mutator beside libFuzzer's own.
JSON inside text inside JSON (a register value holds its owner part so) is changed in place as well.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["changed_tree", "mutated"]

INTERESTING: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 16, 17, 255, 1 << 16, 1 << 31, (1 << 53) + 1, (1 << 62) + 1, 1 << 63, -(1 << 63),
    10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("nan"), "", "\0", "\n", "\x1b[2J", "\ud800",
    "é", "\u202e", "0", "its", "pqc", "0" * 32, "f" * 32, "a" * 65, "x" * 3000, "../../x", "..", [], {}, [[]], [0, ""],
    [1, "me"], [None] * 3, {"": None}, {"op": "read"}, {"kind": "alarm", "code": "a.b", "message": "\x1b]0;x\x07"},
)  # fmt: skip
NUMBERS = (b"\0", b"\xff", b"\x80", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xed\xa0\x80")


def mutated(raw: bytes, rng: random.Random, size_max: int) -> bytes:
    """Return a changed copy of at most ``size_max`` bytes."""
    for _ in range(1 << min(rng.randrange(4), rng.randrange(4))):
        with contextlib.suppress(RecursionError):  # nested once too often: as it was
            raw = _once(raw, rng)
    return raw[:size_max]


def _once(raw: bytes, rng: random.Random) -> bytes:
    start = 1 if raw[1:2] == b"{" and raw[:1] < b" " else 0  # a number before it says what it is for
    if raw[start : start + 1] in {b"{", b"["} and rng.random() < 0.85:
        changed = _json(raw[start:], rng)
        if changed is not None:
            return raw[:start] + changed
    return _bytes(raw, rng)


def _bytes(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw) + 1)
    end = min(len(raw), at + 1 + rng.randrange(1 + rng.choice((1, 4, 64))))
    match rng.randrange(7):
        case 0:
            return raw[:at] + raw[end:]
        case 1:
            return raw[:end] + raw[at:]
        case 2:
            return raw[:at] + rng.choice(NUMBERS) + raw[at:]
        case 3:
            return raw[:at] + rng.choice(NUMBERS) + raw[end:]
        case 4:
            return raw[:at]
        case 5:
            return raw[:at] + rng.randbytes(end - at) + raw[end:]
    flipped = bytes([raw[at] ^ (1 << rng.randrange(8))]) if at < len(raw) else b"\x01"
    return raw[:at] + flipped + raw[at + 1 :]


def _json(raw: bytes, rng: random.Random) -> bytes | None:
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    tree = changed_tree(tree, rng)
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.5, separators=(",", ":"))
    encoding = rng.choice(("utf-8",) * 14 + ("utf-16", "utf-32-be"))
    return text.encode(encoding, "surrogatepass")


def changed_tree(tree: Any, rng: random.Random) -> Any:
    """Change one place of a tree (in place where it can)."""
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return _junk(tree, rng)
    holder, key = rng.choice(places)
    match rng.randrange(10):
        case 0:
            del holder[key]
        case 1:
            other, where = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[where]))
        case 2 if isinstance(holder, list):
            holder.extend([holder[key]] * rng.choice((1, 2, 5, 200)))
        case 2:
            holder[rng.choice(("", "x", "error", "v", "type", str(key).upper()))] = holder.pop(key)
        case _:
            holder[key] = _junk(holder[key], rng)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a tree."""
    todo = [tree]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            todo.append(holder[key])


def _junk(old: Any, rng: random.Random) -> Any:
    """Return something else in place of a value: near it half of the time."""
    if isinstance(old, str) and old[:1] == "{" and rng.random() < 0.9:
        return _inner(old, rng)
    if rng.random() < 0.5:
        if type(old) is int:
            return old + rng.choice((-1, 1, 16, -16, 1 << 20)) if rng.random() < 0.7 else old ^ (1 << rng.randrange(64))
        if isinstance(old, str):
            return _bytes(old.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "replace")
        if isinstance(old, list):
            return (
                rng.sample(old, len(old))
                if rng.random() < 0.5
                else {str(index): each for index, each in enumerate(old)}
            )
    if rng.random() < 0.05:
        return _nest(rng.choice((6, 12, 40, 700)))
    return copy.deepcopy(rng.choice(INTERESTING))


def _inner(text: str, rng: random.Random) -> str:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return text[: len(text) // 2]
    return json.dumps(changed_tree(tree, rng), sort_keys=True, separators=(",", ":"), ensure_ascii=rng.random() < 0.5)


def _nest(levels: int) -> Any:
    nested: Any = []
    for _ in range(levels):
        nested = [nested]
    return nested
