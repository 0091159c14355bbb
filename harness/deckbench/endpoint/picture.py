"""Frames as a request carries them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from deckbench.endpoint.spec import EndpointSpec

if TYPE_CHECKING:
    from PIL.Image import Image

BLANK = (123, 117, 104)  # what most vision towers turn into zeros: CLIP's mean colour
BLANK_SIDE = 64  # pixels


def blank_url(spec: EndpointSpec) -> str:
    """A small picture of one colour."""
    from PIL import Image as Pictures

    return data_url(Pictures.new("RGB", (BLANK_SIDE, BLANK_SIDE), BLANK), spec, blank=False)


def data_url(image: Image, spec: EndpointSpec, blank: bool) -> str:
    """The picture as a data URL; blank: as large, of one colour."""
    from PIL import Image as Pictures

    if blank:
        image = Pictures.new("RGB", image.size, BLANK)
    if spec.max_side is not None and max(image.size) > spec.max_side:
        scale = spec.max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Pictures.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if spec.picture == "jpeg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return f"data:image/{spec.picture};base64,{base64.b64encode(buffer.getvalue()).decode()}"
