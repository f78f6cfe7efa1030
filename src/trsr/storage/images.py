"""Pictures: read from their files, and decoded by Pillow the same way everywhere.

A picture is data from strangers. Only `FORMATS` are opened, sizes are looked at before anything is
decoded, and whatever a decoder raises becomes an `ImageError`.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trsr.errors import StoreError
from trsr.storage import files
from trsr.types import Image

if TYPE_CHECKING:
    import PIL.Image

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
"""The formats that are opened, by Pillow's names, with what ends their files' names here."""

_MEDIA = {"jpg": "image/jpeg"} | {end: f"image/{end}" for end in FORMATS.values() if end != "jpg"}
_SENT = frozenset({"image/png", "image/jpeg", "image/webp"})
"""What every endpoint that takes images takes."""
_ORIENTATION = 0x0112  # the EXIF tag


class ImageError(ValueError):
    """What is wrong with a picture, in a few words."""


@functools.lru_cache(maxsize=512)
def read_image(path: str) -> Image:
    """A picture of a run, by the path of its file; StoreError where it is gone."""
    try:
        data = files.read_bytes(Path(path))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error}); give `trsr run` again") from error
    return Image(data, _MEDIA[path.rpartition(".")[2]])


def check(data: bytes, max_pixels: int) -> str:
    """Decodes a picture to see that it can be.

    Returns:
        The name's ending for its format, such as `png`.

    Raises:
        ImageError: If it is too large, cut off, or no picture.
    """
    with _opened(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(f"has {width} × {height} pixels, more than {max_pixels:,}")
        ending = FORMATS[str(image.format)]
        _rgb(image)
    return ending


def decode(image: Image) -> PIL.Image.Image:
    """A picture as models see it: 8-bit RGB, upright, of an animation the first frame.

    What is transparent becomes white; CMYK and other color spaces, and 16 bits, are converted.

    Raises:
        ImageError: If it cannot be decoded.
    """
    with _opened(image.data) as opened:
        return _rgb(opened)


def sendable(image: Image) -> tuple[str, bytes]:
    """Media type and bytes of a picture for an endpoint: its own, or a PNG of what `decode` gives.

    Its own where it is a still PNG, JPEG or WebP in plain RGB or gray, upright.

    Raises:
        ImageError: If it cannot be decoded.
    """
    with _opened(image.data) as opened:
        plain = opened.mode in ("RGB", "L") and getattr(opened, "n_frames", 1) == 1
        if image.media_type in _SENT and plain and opened.getexif().get(_ORIENTATION, 1) == 1:
            return image.media_type, image.data
        written = io.BytesIO()
        _rgb(opened).save(written, "PNG")
    return "image/png", written.getvalue()


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is no picture in a format that is read") from None
    except Exception as error:  # decoders raise whatever the bytes make them
        raise ImageError(f"cannot be decoded ({error or type(error).__name__})") from error


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        # Pillow would cut 16 bits off at 255: all white
        numbers = np.asarray(upright, np.float64)
        most = max(float(numbers.max(initial=0)), 1.0)
        scale = 255 / (65535 if most > 255 else 255)
        upright = Pillow.fromarray((numbers * scale).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        shown = upright.convert("RGBA")
        white = Pillow.new("RGBA", shown.size, "white")
        upright = Pillow.alpha_composite(white, shown)
    return upright.convert("RGB")
