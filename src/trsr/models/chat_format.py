"""The chat format: how prompts become a model's tokens, and tokens become text."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import re
import threading
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
"""The labels of messages for tokenizers without a chat template."""

_MARKUP = re.compile(r"(?=.*[^\W\d]).*[<>\[\]|｜◁▷]", re.DOTALL)
_CACHED_PROMPTS = 4096  # the writer counts a prompt just before the model reads it
_CACHED_PIECES = 4096


class Question(NamedTuple):
    """A prompt with its answers, as tokens.

    Attributes:
        stem: The tokens before every answer.
        answers: Each answer's own tokens.
    """

    stem: Tokens
    answers: tuple[Tokens, ...]


class FormattedModel:
    """What models share that read prompts as tokens, by a chat format of their own."""

    chat_format: ChatFormat
    _identity: str
    _context_tokens: int

    @property
    def identity(self) -> str:
        """Name, digest of weights and tokenizer, and all else that decides an answer."""
        return self._identity

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer: the setting, or the model's own if less."""
        return self._context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the model reads it, chat format included."""
        return len(self.chat_format.encode(prompt))


class ChatFormat:
    """One tokenizer's chat format.

    It is the chat template, with the begun answer as an open last assistant message. A template
    without system messages gets their text before the first user message. Without a template,
    messages stand under `LABELS`. Special tokens in message contents are escaped first. `specials`
    is further text that the model reads as markup (`model.special_tokens`).
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
                "%s has no chat template: messages stand under plain labels (%s)",
                name,
                " / ".join(LABELS.values()),
            )
        self._cut = _cutter(tokenizer)
        self._formatted: dict[Prompt, tuple[str, Tokens]] = {}  # the latest ones last
        self._pieces: dict[str, Tokens] = {}  # likewise
        self._lock = threading.Lock()  # of these

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

        Where an answer changes the tokens at the prompt's end, these count to the answers.

        Raises:
            ModelError: If an answer adds no token, or two have the same tokens.
        """
        formatted = self._format(prompts)
        escaped = [escape_special_tokens(answer, self.markers) for answer in answers]
        full = self._tokens([text + answer for text, _ in formatted for answer in escaped])
        count = len(escaped)
        return [
            self._question(own, full[place * count : (place + 1) * count], answers)
            for place, (_, own) in enumerate(formatted)
        ]

    def _question(self, own: Tokens, full: Sequence[Tokens], answers: Sequence[str]) -> Question:
        stem = min((common(own, one) for one in full), default=len(own))
        tails = tuple(one[stem:] for one in full)
        for place, (answer, tail) in enumerate(zip(answers, tails, strict=True)):
            if not tail or full[place] == own:
                raise ModelError(f"the answer {answer!r} has no token of its own for {self.name}")
            if tail in tails[:place]:
                other = answers[tails.index(tail)]
                raise ModelError(
                    f"the answers {other!r} and {answer!r} have the same tokens for {self.name}: "
                    "choose answers that differ"
                )
        return Question(own[:stem], tails)

    def closing(self, stops: Collection[int]) -> Tokens:
        """The token of `stops` that the template writes after an answer, else end-of-sequence.

        Empty where the tokenizer has neither.
        """
        if self.templated:
            answer = "an answer"
            turns = [Message("user", "a question"), Message("assistant", answer)]
            text = self._render(turns, closed=True)
            rest = text.rpartition(answer)[2] if answer in text else ""
            for token in self.tokenizer.encode(rest, add_special_tokens=False):
                if token in stops:
                    return (token,)
        eos = self.tokenizer.eos_token_id
        return () if eos is None else (eos,)

    def turns(self, prompt: Prompt) -> tuple[Tokens, ...]:
        """The tokens of each of the prompt's assistant messages, the begun answer last.

        Without a begun answer the last one is empty.
        """
        texts = [message.content for message in prompt.messages if message.role == "assistant"]
        if not prompt.begun:
            texts.append("")
        return tuple(
            tuple(
                self.tokenizer.encode(
                    escape_special_tokens(text, self.markers), add_special_tokens=False
                )
            )
            for text in texts
        )

    def opened(self, prompt: Prompt) -> str:
        """The mark with which the template opens the model's thinking; empty without one."""
        return thinks(self._format([prompt])[0][0])

    def decode(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of tokens that follow others, without special tokens.

        A few tokens before them are decoded too: alone, some tokenizers drop the first space.
        """
        head = list(before[-4:])
        before_it = self._text_of(head)
        both = self._text_of(head + list(tokens))
        return both[len(before_it) :] if both.startswith(before_it) else self._text_of(tokens)

    def kind(self, tokens: Tokens) -> Tokens:
        """What prompts of one kind begin with: the tokens themselves."""
        return tokens

    def _text_of(self, tokens: Sequence[int]) -> str:
        """Text without special tokens other than the marks of thinking."""
        if self._thinking.keys() & set(tokens):
            runs = itertools.groupby(tokens, key=self._thinking.get)
            return "".join(mark or self._decode(list(run)) for mark, run in runs)
        return self._decode(tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, prompt: Prompt) -> Tokens:
        """The prompt's tokens, begin-of-sequence included where the model wants it."""
        return self._format([prompt])[0][1]

    def forget(self) -> None:
        """Empties the cache of formatted prompts."""
        with self._lock:
            self._formatted.clear()
            self._pieces.clear()

    def _format(self, prompts: Sequence[Prompt]) -> list[tuple[str, Tokens]]:
        """Each prompt's text and tokens; those that are not cached are encoded together."""
        with self._lock:
            found = {prompt: self._formatted.pop(prompt, None) for prompt in prompts}
        texts = {prompt: self.text(prompt) for prompt, one in found.items() if one is None}
        for (prompt, text), tokens in zip(
            texts.items(), self._tokens([*texts.values()]), strict=True
        ):
            found[prompt] = text, tokens
        formatted = {prompt: one for prompt, one in found.items() if one is not None}
        with self._lock:
            known = self._formatted
            known.update(formatted)
            for prompt in [*itertools.islice(known, max(len(known) - _CACHED_PROMPTS, 0))]:
                del known[prompt]
        return [formatted[prompt] for prompt in prompts]

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Texts' tokens: each distinct piece is encoded once, many side by side, on all cores."""
        cut = [self._cut.split(text) if self._cut else [text] for text in texts]
        pieces = dict.fromkeys(itertools.chain.from_iterable(cut))
        with self._lock:
            tokens = {one: self._pieces[one] for one in pieces if one in self._pieces}
        missing = [one for one in pieces if one not in tokens]
        if missing:
            # a template writes its own begin-of-sequence: the tokenizer must not add a second
            found = self.tokenizer(missing, add_special_tokens=False)["input_ids"]
            tokens |= zip(missing, map(tuple, found), strict=True)
            self._keep(tokens)
        return [
            (*self._bos, *itertools.chain.from_iterable(tokens[piece] for piece in own))
            for own in cut
        ]

    def _keep(self, tokens: dict[str, Tokens]) -> None:
        """Keeps the latest pieces: a prompt is read to be counted, and again with its answers."""
        with self._lock:
            self._pieces |= tokens
            for one in [
                *itertools.islice(self._pieces, max(len(self._pieces) - _CACHED_PIECES, 0))
            ]:
                del self._pieces[one]

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
    system = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not system:
        return others
    for place, message in enumerate(others):
        if message.role == "user":
            others[place] = Message("user", "\n\n".join([*system, message.content]))
            return others
    return [Message("user", "\n\n".join(system)), *others]


def _markers(tokenizer: Any) -> frozenset[str]:
    """Special tokens, and added ones with a bracket or bar (`<think>`, `[TOOL_CALLS]`)."""
    added = tokenizer.added_tokens_decoder.values()
    marked = {token.content for token in added if token.special or _MARKUP.match(token.content)}
    return frozenset(marked | set(tokenizer.all_special_tokens))


_LINES = r"(?<=\S\n)(?=[\w-])"
_LINE_PROBES = (
    "a b.\n- c d: e;\nNext film: Q",
    '1, 2\n3 x)\nÄ_y"\n_z\n中文\n9',
    "- A's\n-- b\n- C.\nd",
)


def _cutter(tokenizer: Any) -> re.Pattern[str] | None:
    """Where a text can be cut without changing its tokens: before most special tokens, and lines.

    Tokenizers find special tokens first and read the text between them separately. We leave out
    tokens that take in the space before them, or that are part of another one. Byte-level BPE reads
    a line break with what stands before it, if at all.
    """
    added = list(tokenizer.added_tokens_decoder.values())
    found = [
        re.escape(one.content)
        for one in added
        if one.special
        and not (one.lstrip or one.single_word or one.normalized)
        and not any(one.content in other.content for other in added if other is not one)
    ]
    places = [f"(?={'|'.join(sorted(found))})"] if found else []
    if _cuts_lines(tokenizer):
        places.append(_LINES)
    return re.compile("|".join(places)) if places else None


def _cuts_lines(tokenizer: Any) -> bool:
    """Whether lines can be read one by one: byte-level, nothing put in front, and so found."""
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = json.dumps([inner.get("pre_tokenizer"), inner.get("model", {}).get("type")])
    normalizer = inner.get("normalizer")
    plain = normalizer is None or normalizer.get("type") == "NFC"
    if not plain or '"ByteLevel"' not in parts or '"add_prefix_space": true' in parts:
        return False
    read = functools.partial(tokenizer.encode, add_special_tokens=False)
    return all(
        read(probe) == [token for line in re.split(_LINES, probe) for token in read(line)]
        for probe in _LINE_PROBES
    )


def _bos(tokenizer: Any) -> Tokens:
    """The begin-of-sequence token, where the tokenizer puts one before plain text."""
    ids = tokenizer.encode("a")
    return (ids[0],) if ids and ids[0] == tokenizer.bos_token_id else ()
