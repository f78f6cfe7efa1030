"""How a prompt becomes the tokens that one model reads, and tokens become text again."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from trsr.errors import ModelError
from trsr.models.base import text_only
from trsr.models.markup import escape_special_tokens
from trsr.models.thinking import MARK, thinks
from trsr.models.token_tree.tokens import Tokens, common
from trsr.types import Message, Prompt

_log = logging.getLogger(__name__)

LABELS = {"system": "### System:", "user": "### User:", "assistant": "### Assistant:"}
"""The plain layout: each message under its label, for tokenizers without a chat template."""

_MARKUP = re.compile(r"(?=.*[^\W\d]).*[<>\[\]|｜◁▷]", re.DOTALL)
_REMEMBERED = 4096  # prompts; the writer counts a prompt just before the model reads it


class Question(NamedTuple):
    """A prompt with its answers, as tokens.

    Attributes:
        stem: The tokens before every answer.
        answers: Each answer's own tokens.
    """

    stem: Tokens
    answers: tuple[Tokens, ...]


class ChatFormat:
    """One tokenizer's way to lay a prompt out.

    With a chat template that is the template, the begun answer as the last assistant message left
    open. Where the template takes no system message, it is put before the first user message.
    Without a template, messages stand under the labels of `LABELS`. Message contents are
    made inert first: no special token can come out of them, nor what other models read as one.

    Args:
        tokenizer: A fast tokenizer of transformers.
        name: The model's name, for messages.
        backend: What runs the model, for messages.
        specials: Further text that the model reads as markup (`model.special_tokens`).
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        backend: str = "transformers",
        specials: Collection[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.backend = backend
        self.templated = bool(tokenizer.chat_template)
        self.markers = _markers(tokenizer) | frozenset(specials)
        self._thinking = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special and MARK.fullmatch(token.content)
        }
        # a long prompt is our error to raise, with the prompt's name: not the tokenizer's to log
        tokenizer.model_max_length = 10**9
        self._bos: Tokens = ()
        self._takes_system = True
        if self.templated:
            self._takes_system = self._try_system()
        else:
            self.markers |= frozenset(LABELS.values())
            self._bos = _bos(tokenizer)
            _log.warning(
                "%s has no chat template: messages are laid out plainly (%s)",
                name,
                " / ".join(LABELS.values()),
            )
        self._cut = _cutter(tokenizer)
        self._laid: dict[Prompt, tuple[str, Tokens]] = {}  # the latest ones last

    @property
    def stop(self) -> str:
        """Generated text ends before this, where no token says that it ends."""
        return "" if self.templated else "\n\n### "

    def text(self, prompt: Prompt) -> str:
        """The prompt as the model's text, ready for the answer to follow.

        Raises:
            ModelError: If the chat template refuses the messages.
            PromptError: If a part of the prompt is no text.
        """
        text_only(prompt, self.backend)
        messages = [
            Message(message.role, escape_special_tokens(message.content, self.markers))
            for message in prompt.messages
        ]
        if messages[-1].role == "assistant" and not messages[-1].content:
            messages.pop()
        if not self.templated:
            return _plain(messages)
        if not self._takes_system:
            messages = _fold_system(messages)
        try:
            return self._render(messages)
        except (TemplateError, ValueError) as error:
            raise ModelError(
                f"the chat template of {self.name} refuses the messages "
                f"({', '.join(message.role for message in messages)}): {error}"
            ) from error

    def questions(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Question]:
        """Each prompt's and its answers' tokens, the answers encoded where they stand.

        Where an answer changes how the prompt's end is cut into tokens, that end counts to the
        answers: the stem is what stays the same before all of them.

        Raises:
            ModelError: If an answer adds no token, or two have the same tokens.
        """
        laid = self._lay(prompts)
        said = [escape_special_tokens(answer, self.markers) for answer in answers]
        wholes = self._tokens([text + answer for text, _ in laid for answer in said])
        return [
            self._question(own, wholes[place * len(said) : (place + 1) * len(said)], answers)
            for place, (_, own) in enumerate(laid)
        ]

    def _question(self, own: Tokens, wholes: Sequence[Tokens], answers: Sequence[str]) -> Question:
        stem = min((common(own, whole) for whole in wholes), default=len(own))
        tails = tuple(whole[stem:] for whole in wholes)
        for place, (answer, tail) in enumerate(zip(answers, tails, strict=True)):
            if not tail or wholes[place] == own:
                raise ModelError(f"the answer {answer!r} has no token of its own for {self.name}")
            if tail in tails[:place]:
                other = answers[tails.index(tail)]
                raise ModelError(
                    f"the answers {other!r} and {answer!r} have the same tokens for {self.name}: "
                    "choose answers that differ"
                )
        return Question(own[:stem], tails)

    def closing(self, stops: Collection[int]) -> Tokens:
        """What ends the assistant's turn: the stop token that the template writes after an answer.

        Models have several stop tokens, and learn to end from the one of their own turns. Where
        the template writes none, or there is no template, it is the end-of-sequence token.

        Args:
            stops: The tokens that end a text.

        Returns:
            One token; none where the tokenizer has no such token.
        """
        if self.templated:
            said = "an answer"
            turns = [Message("user", "a question"), Message("assistant", said)]
            whole = self._render(turns, closed=True)
            rest = whole[whole.rindex(said) + len(said) :] if said in whole else ""
            for token in self.tokenizer.encode(rest, add_special_tokens=False):
                if token in stops:
                    return (token,)
        eos = self.tokenizer.eos_token_id
        return () if eos is None else (eos,)

    def turns(self, prompt: Prompt) -> tuple[Tokens, ...]:
        """The tokens of each of the prompt's assistant messages, the begun answer last.

        Without a begun answer the last one is empty.
        """
        said = [message.content for message in prompt.messages if message.role == "assistant"]
        if not prompt.begun:
            said.append("")
        return tuple(
            tuple(
                self.tokenizer.encode(
                    escape_special_tokens(text, self.markers), add_special_tokens=False
                )
            )
            for text in said
        )

    def opened(self, prompt: Prompt) -> str:
        """The mark with which the template opens the model's thinking; empty where it does not."""
        return thinks(self._lay([prompt])[0][0])

    def decode(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of tokens that follow others, without special tokens.

        Decoded together with a few of those before it: alone, some tokenizers drop the space
        at the front.
        """
        head = list(before[-4:])
        said = self._said(head)
        whole = self._said(head + list(tokens))
        return whole[len(said) :] if whole.startswith(said) else self._said(tokens)

    def _said(self, tokens: Sequence[int]) -> str:
        """Text without special tokens, but for those that tell thinking from answer."""
        if self._thinking.keys() & set(tokens):
            runs = itertools.groupby(tokens, key=self._thinking.get)
            return "".join(mark or self._plainly(list(run)) for mark, run in runs)
        return self._plainly(tokens)

    def _plainly(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, prompt: Prompt) -> Tokens:
        """The prompt's tokens, begin-of-sequence included where the model wants it."""
        return self._lay([prompt])[0][1]

    def forget(self) -> None:
        """Drops the texts and tokens that are kept of the latest prompts."""
        self._laid.clear()

    def _lay(self, prompts: Sequence[Prompt]) -> list[tuple[str, Tokens]]:
        """Each prompt's text and tokens; what is not kept of earlier calls is encoded together."""
        known = self._laid
        found = {prompt: known.pop(prompt, None) for prompt in prompts}
        texts = {prompt: self.text(prompt) for prompt, one in found.items() if one is None}
        for (prompt, text), tokens in zip(
            texts.items(), self._tokens([*texts.values()]), strict=True
        ):
            found[prompt] = text, tokens
        laid = {prompt: one for prompt, one in found.items() if one is not None}
        known.update(laid)
        for prompt in [*itertools.islice(known, max(len(known) - _REMEMBERED, 0))]:
            del known[prompt]
        return [laid[prompt] for prompt in prompts]

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Texts' tokens: each distinct piece is encoded once, many side by side, on all cores."""
        cut = [self._cut.split(text) if self._cut else [text] for text in texts]
        pieces = list(dict.fromkeys(itertools.chain.from_iterable(cut)))
        if not pieces:
            return []
        # a template writes its own begin-of-sequence: the tokenizer must not add a second
        found = self.tokenizer(pieces, add_special_tokens=False)["input_ids"]
        tokens = dict(zip(pieces, found, strict=True))
        return [
            (*self._bos, *itertools.chain.from_iterable(tokens[piece] for piece in own))
            for own in cut
        ]

    def _render(self, messages: Sequence[Message], *, closed: bool = False) -> str:
        begun = messages[-1].role == "assistant"
        text: str = self.tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            tokenize=False,
            add_generation_prompt=not (begun or closed),
            continue_final_message=begun and not closed,
            enable_thinking=False,  # templates that know it: the answer comes at once
        )
        return text

    def _try_system(self) -> bool:
        """Whether the template takes a system message: some raise, some drop it."""
        probe = [Message("system", "probe-system"), Message("user", "probe-user")]
        try:
            return "probe-system" in self._render(probe)
        except (TemplateError, ValueError):
            return False


def _plain(messages: Sequence[Message]) -> str:
    parts = [f"{LABELS[message.role]}\n{message.content}" for message in messages]
    if messages[-1].role != "assistant":
        parts.append(f"{LABELS['assistant']}\n")
    return "\n\n".join(parts)


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    said = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not said:
        return others
    for place, message in enumerate(others):
        if message.role == "user":
            others[place] = Message("user", "\n\n".join([*said, message.content]))
            return others
    return [Message("user", "\n\n".join(said)), *others]


def _markers(tokenizer: Any) -> frozenset[str]:
    """Special tokens, and added ones with a bracket or bar (`<think>`, `[TOOL_CALLS]`)."""
    added = tokenizer.added_tokens_decoder.values()
    marked = {token.content for token in added if token.special or _MARKUP.match(token.content)}
    return frozenset(marked | set(tokenizer.all_special_tokens))


def _cutter(tokenizer: Any) -> re.Pattern[str] | None:
    """Where a text can be cut so that its pieces' tokens are the whole's: before special tokens.

    Tokenizers find these first, in the text as it is, and read what stands between two of them by
    itself. Not so one that takes in the space before it, or that stands in another added token.
    """
    added = list(tokenizer.added_tokens_decoder.values())
    found = [
        re.escape(one.content)
        for one in added
        if one.special
        and not (one.lstrip or one.single_word or one.normalized)
        and not any(one.content in other.content for other in added if other is not one)
    ]
    return re.compile(f"(?={'|'.join(sorted(found))})") if found else None


def _bos(tokenizer: Any) -> Tokens:
    """The begin-of-sequence token, where the tokenizer puts one before plain text."""
    ids = tokenizer.encode("a")
    return (ids[0],) if ids and ids[0] == tokenizer.bos_token_id else ()
