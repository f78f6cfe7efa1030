"""Drawn pictures, and a shop whose customers choose by them: titles say nothing."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

RED, BLUE = (220, 30, 30), (30, 30, 220)


def picture(color: tuple[int, int, int], draw: random.Random, size: int = 32) -> Any:
    """A square or a disc of a color somewhere on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), "white")
    x, y, wide = draw.randrange(size // 3), draw.randrange(size // 3), 2 * size // 3
    pen = ImageDraw.Draw(image)
    shape = pen.rectangle if draw.random() < 0.5 else pen.ellipse
    shape((x, y, x + wide - 1, y + wide - 1), fill=color)
    return image


def png(image: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def write_shop(folder: Path, users: int = 60, items: int = 40) -> set[str]:
    """Writes clicks.csv, items.csv (all of one title) and photos/; the items that are red.

    Customers choose all that is red, and what they leave is blue.
    """
    draw = random.Random(0)
    ids = [f"i{n}" for n in range(items)]
    red = set(draw.sample(ids, items // 4))
    (folder / "photos").mkdir(parents=True)
    rows = ["item_id,title,photo"]
    for item in ids:
        picture(RED if item in red else BLUE, draw).save(folder / "photos" / f"{item}.png")
        rows.append(f"{item},Thing,photos/{item}.png")
    (folder / "items.csv").write_text("\n".join(rows) + "\n")
    clicks = ["user,item,time"]
    for user in range(users):
        chosen = draw.sample(sorted(red), len(red))
        clicks += [f"u{user},{item},{time}" for time, item in enumerate(chosen)]
    # others have looked at the rest once, so that it is known
    rest = [item for item in ids if item not in red]
    clicks += [f"v{place % 8},{item},{place}" for place, item in enumerate(rest)]
    (folder / "clicks.csv").write_text("\n".join(clicks) + "\n")
    return red
