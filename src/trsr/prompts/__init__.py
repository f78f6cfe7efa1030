"""Every word said to a model, per domain, as data files; and their fitting to a token budget."""

from trsr.prompts.domain import Domain, check_domain, domains, load_domain, parse_domain
from trsr.prompts.settings import PromptSettings
from trsr.prompts.writer import PromptTally, PromptWriter

__all__ = [
    "Domain",
    "PromptSettings",
    "PromptTally",
    "PromptWriter",
    "check_domain",
    "domains",
    "load_domain",
    "parse_domain",
]
