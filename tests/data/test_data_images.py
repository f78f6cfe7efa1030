"""Images of items: found, checked and kept once; whatever is wrong with one is said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from drawn import png

from trsr.data import Dataset, DataSettings, inspect, prepare
from trsr.errors import DataError
from trsr.progress import Silent
from trsr.storage.images import check, decode, read_image, sendable
from trsr.types import Image as Picture

Image = pytest.importorskip("PIL.Image", reason="the extra 'images' is not installed")


def shop(folder: Path, photos: dict[str, Any], items: int = 8) -> dict[str, Any]:
    """Writes clicks and items with a column `photo`; settings that read them."""
    rows = [
        {"id": str(n), "title": f"Thing {n}", "photo": photos.get(str(n))} for n in range(items)
    ]
    pl.DataFrame(rows, {"id": pl.String, "title": pl.String, "photo": pl.Object}).with_columns(
        photo=pl.Series([row["photo"] for row in rows])
    ).write_parquet(folder / "items.parquet")
    clicks = [f"u{u},{(u + t) % items},{t}" for u in range(6) for t in range(6)]
    (folder / "clicks.csv").write_text("user,item,time\n" + "\n".join(clicks) + "\n")
    paths = {name: folder / f"{name}.parquet" for name in ("items",)}
    return {"interactions": folder / "clicks.csv", **paths, "negatives": 1, "images": "photo"}


def plain(color: str = "red", size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Any:
    return Image.new(mode, size, color)


def test_all_that_is_wrong_is_said_at_once_and_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trsr.data.images.MAX_PIXELS", 90 * 90 - 1)
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(noise, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(noise.getvalue()[:-400])
    (tmp_path / "text.png").write_text("not a picture")
    plain(size=(90, 90)).save(tmp_path / "large.png")
    plain().save(tmp_path / "good.png")
    outside = tmp_path.parent / "outside.png"
    plain().save(outside)
    photos = {
        "0": "good.png",
        "1": "gone.png",
        "2": "text.png",
        "3": "cut.jpg",
        "4": "large.png",
        "5": "../outside.png",
        "6": "https://example.org/x.png",
    }
    settings = shop(tmp_path, photos)
    with pytest.raises(DataError) as refused:
        inspect(DataSettings(**settings), seed=0)
    said = str(refused.value)
    for part in (
        "7 of 8 items have no image that can be used",
        "the image is a file that is missing (gone.png): 1",
        "the image is no picture in a format that is read: 2",
        "the image cannot be decoded (image file is truncated",
        "the image has 90 × 90 pixels, more than 8,099: 4",
        "the image lies outside the folder of the items' file: 5",
        "the image is an address, and nothing is fetched: 6",
        "no image is given: 7",
    ):
        assert part in said
    report = inspect(DataSettings(**settings, max_without_image=0.9), seed=0)
    counts = {name: report.counts[name] for name in ("images", "images_unusable")}
    assert counts == {"images": 1, "images_unusable": 6}
    assert report.counts["items_without_image"] == 1
    assert sum("image" in text for text in report.warnings) == 7


def test_a_bomb_is_refused_by_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    data, loads = png(plain(size=(500, 500))), list[object]()
    monkeypatch.setattr(Image.Image, "load", loads.append)
    with pytest.raises(ValueError, match="has 500 × 500 pixels"):
        check(data, 1000)
    assert not loads


def test_one_content_is_kept_once_and_found_from_the_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("x.png", "y.png"):
        plain().save(tmp_path / "a" / name)
    photos: dict[str, Any] = {str(n): f"a/{'xy'[n % 2]}.png" for n in range(8)}
    out = tmp_path / "run"
    out.mkdir()
    prepare(DataSettings(**shop(tmp_path, photos)), out, seed=0, progress=Silent())
    assert len(list((out / "images").iterdir())) == 1
    catalog = Dataset.load(out).catalog
    assert catalog.columns == ("title",)  # a path is no text
    assert read_image(catalog["0"].image).data == (tmp_path / "a" / "x.png").read_bytes()
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    assert Path(Dataset.load(moved).catalog["0"].image).is_file()


def test_bytes_structs_lists_and_a_folder_by_id_are_read(tmp_path: Path) -> None:
    data = png(plain())
    (tmp_path / "by_id").mkdir()
    for n in range(8):
        plain().save(tmp_path / "by_id" / f"{n}.JPG")
    for cell in (data, {"bytes": data, "path": "x.png"}, ["by_id/0.JPG", "by_id/1.JPG"]):
        settings = shop(tmp_path, {str(n): cell for n in range(8)})
        assert inspect(DataSettings(**settings), seed=0).counts["images"] == 8
    settings = shop(tmp_path, {}) | {"images": "by_id"}
    assert inspect(DataSettings(**settings), seed=0).counts["images"] == 8
    with pytest.raises(DataError, match="neither a column of the items .* nor a folder"):
        inspect(DataSettings(**settings | {"images": "nowhere"}), seed=0)


def saved(image: Any, kind: str, **options: Any) -> Picture:
    written = io.BytesIO()
    image.save(written, kind, **options)
    ending = check(written.getvalue(), 10**6)
    return Picture(written.getvalue(), f"image/{'jpeg' if ending == 'jpg' else ending}")


def test_strange_pictures_are_seen_as_people_see_them() -> None:
    frames = [plain("red"), plain("blue")]
    animated = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    ramp = Image.fromarray(np.linspace(0, 65535, 120, dtype=np.uint16).reshape(10, 12))
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    found = {
        "first frame": decode(animated).getpixel((5, 5)),
        "cmyk": decode(saved(plain("red").convert("CMYK"), "TIFF")).getpixel((5, 5)),
        "cut out": decode(saved(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG")).getpixel((0, 0)),
        "upright": decode(saved(plain(), "JPEG", exif=turned)).size,
    }
    assert found["first frame"] == (254, 0, 0) or found["first frame"] == (255, 0, 0)
    assert found["cmyk"] == (255, 0, 0)
    assert found["cut out"] == (255, 255, 255)
    assert found["upright"] == (10, 12)
    gray = np.asarray(decode(saved(ramp, "PNG")))[..., 0]
    assert gray.min() == 0
    assert gray.max() == 255
    assert 100 < np.median(gray) < 155  # 16 bits are not cut off at 255
    # endpoints get a plain picture as it is, of any other what is seen
    usual = saved(plain(), "JPEG")
    assert sendable(usual) == ("image/jpeg", usual.data)
    kind, data = sendable(animated)
    assert kind == "image/png"
    assert Image.open(io.BytesIO(data)).n_frames == 1
