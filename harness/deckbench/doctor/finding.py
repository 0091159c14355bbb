"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# good: there and usable. bad: there, and it prevents something. absent: not there, or unknown.
State = Literal["good", "bad", "absent"]
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """name: what was checked. fix: what to do about it; empty where nothing is."""

    name: str
    state: State
    found: str
    fix: str = ""
