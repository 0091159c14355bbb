"""Whom a pool's pictures come from: `credit` in its yaml. It goes with every dataset and record made of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from deckbench.schema import Strict


def one_line(text: str) -> str:
    """Raises ValueError for what is no line of text."""
    if not text.strip() or not text.isprintable():
        raise ValueError("a line of text is expected")
    return text


Line = Annotated[str, Field(max_length=500), AfterValidator(one_line)]


class Credit(Strict):
    """Schema of `credit`. title, source: what a licence wants named; changes: what was done to the original."""

    title: Line
    source: Line
    licence: Line
    licence_url: Line | None = None
    changes: Line | None = None

    @property
    def text(self) -> str:
        """One sentence for a page or a README."""
        parts = [f"{self.title} ({self.source})", f"licence: {self.licence}"]
        parts += [f"at {self.licence_url}"] if self.licence_url else []
        parts += [f"changes: {self.changes}"] if self.changes else []
        return "; ".join(parts)


def read_credit(value: Any) -> Credit | None:
    """The credit in a pool's yaml. Raises ValueError, with what is wrong, where there is one that cannot be read."""
    if value is None:
        return None
    try:
        return Credit.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"credit{'.' if where else ''}{where}: {first['msg']}") from error
