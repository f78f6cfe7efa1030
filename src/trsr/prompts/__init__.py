"""Prompts: every word per domain, as data files, and their fitting to a token budget."""

from trsr.prompts.settings import PromptSettings
from trsr.prompts.templates import Domain, domains, load_domain, parse_domain
from trsr.prompts.titles import Titles, TitleWriter
from trsr.prompts.writer import PromptCounts, PromptWriter

__all__ = [
    "Domain",
    "PromptCounts",
    "PromptSettings",
    "PromptWriter",
    "TitleWriter",
    "Titles",
    "domains",
    "load_domain",
    "parse_domain",
]
