"""The text of an item as the text rankers read it: values only, without ids or column names."""

from __future__ import annotations

from trsr.prompts.text import fold_cut
from trsr.rank.settings import RankSettings
from trsr.types import Item


def item_text(item: Item, settings: RankSettings) -> str:
    """The values of the columns that `rank.text_fields` names, on one line; empty where none is.

    White space is folded, so texts that differ in nothing else are the same text.
    """
    known = dict(item.fields)
    fields = settings.text_fields or tuple(known)
    values = (fold_cut(known[name], settings.text_words) for name in fields if name in known)
    return ". ".join(value for value in values if value)
