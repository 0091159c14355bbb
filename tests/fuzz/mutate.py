"""A good input, broken: bytes flipped and cut, hostile words inserted, values of JSON, YAML and tables replaced."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**400,
    -(10**30),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "A",
    "B",
    "x" * 300,
    "x" * 70_000,
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "\u202e",
    "\n",
    "\r",
    "1",
    "1e999",
    "9" * 400,
    "2026-99-99",
    "é",
    "e\u0301",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"a": {"a": 1}}},
    "{{x}}",
    "images",
    ".",
    "..",
    "~",
    "nan",
    "-inf",
    "0x10",
    "1_000",
    "=1+1",
    "file:///etc/passwd",
    "endpoint:x",
    "train",
    "test",
)
TOKENS = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r",
    b"\n",
    b"\n\n",
    b"\t",
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b": ",
    b"- ",
    b"#",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!binary x",
    b"? ",
    b"|",
    b">",
    b"%",
    b"---\n",
    b"...\n",
    b"NaN",
    b"Infinity",
    b"-1",
    b"1e400",
    b"99999999999999999999",
    b"0x",
    b"nan",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"x" * 100_000,
    b"9" * 5000,
    b"\x1f\x8b\x08\x00",
    b"../",
    b"/",
    b"\\",
    b"null",
    b"true",
    b'"\\ud800"',
)
Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def drop(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 10, 100, 1000)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start : start + rng.randrange(2000)] * rng.choice((2, 3, 20)) + data[start:]


def insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(TOKENS) + data[start:]


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines[: rng.randrange(len(lines) + 1)] if rng.random() < 0.3 else lines)


def change(value: Any, rng: random.Random) -> Any:
    """A JSON value with something in it replaced, removed, added or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.7:
            return {**value, key: change(value[key], rng)}
        if kind < 0.85:
            return {name: one for name, one in value.items() if name != key}
        return {**value, str(rng.choice(VALUES)): rng.choice(VALUES)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.8:
            return [*value[:at], change(value[at], rng), *value[at + 1 :]]
        return value[:at] if rng.random() < 0.5 else [*value, *value[:at]]
    return rng.choice(VALUES)


def as_json(data: bytes, rng: random.Random) -> bytes:
    """One JSON value, or a line of JSON Lines, changed."""
    lines = data.splitlines(keepends=True)
    try:
        text = json.dumps(change(json.loads(data), rng), ensure_ascii=rng.random() < 0.5)
    except ValueError:
        at = rng.randrange(len(lines))
        text = json.dumps(change(json.loads(lines[at]), rng)) + "\n"
        return b"".join([*lines[:at], text.encode("utf-8", "surrogatepass"), *lines[at + 1 :]])
    return text.encode("utf-8", "surrogatepass")


def as_yaml(data: bytes, rng: random.Random) -> bytes:
    value = change(yaml.safe_load(data), rng)
    return yaml.safe_dump(value, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def as_table(data: bytes, rng: random.Random) -> bytes:
    """A cell, a row or a column of a CSV changed."""
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    row = rng.randrange(len(rows))
    at = rng.randrange(max(1, len(rows[row])))
    kind = rng.random()
    if kind < 0.7:
        rows[row][at : at + 1] = [str(rng.choice(VALUES))]
    elif kind < 0.8:
        rows = [[*one[:at], *one[at + 1 :]] for one in rows]
    elif kind < 0.9:
        rows.insert(rng.randrange(len(rows)), list(rows[row]))
    else:
        del rows[row]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


PLAIN: tuple[Mutation, ...] = (flip, cut, drop, repeat, insert, insert, swap_lines)
BY_SUFFIX: dict[str, Mutation] = {".json": as_json, ".jsonl": as_json, ".yaml": as_yaml, ".csv": as_table}


def mutate(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """`data` with one to three faults; those that fit its kind come more often."""
    structured = BY_SUFFIX.get(suffix)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if structured is not None and rng.random() < 0.6:
            try:
                data = structured(data, rng)
                continue
            except (ValueError, yaml.YAMLError, csv.Error, IndexError, RecursionError, TypeError, OverflowError):
                pass
        data = rng.choice(PLAIN)(data, rng)
    return data
