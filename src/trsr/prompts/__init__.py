"""Every word said to a model, per domain, as data files; and their fitting to a token budget."""

from trsr.prompts.settings import PromptSettings
from trsr.prompts.templates import Domain, check_domain, domains, load_domain, parse_domain
from trsr.prompts.writer import PromptCounts, PromptWriter

__all__ = [
    "Domain",
    "PromptCounts",
    "PromptSettings",
    "PromptWriter",
    "check_domain",
    "domains",
    "load_domain",
    "parse_domain",
]
