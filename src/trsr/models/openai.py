"""Texts from any OpenAI-compatible chat endpoint: many requests at once, none lost, none twice."""

from __future__ import annotations

import json
import math
import queue
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trsr.errors import ConfigError, ModelError
from trsr.models.base import Feed, Sampling, text_only
from trsr.models.http import (
    AgainError,
    Said,
    address_of,
    after,
    asked_wait,
    client_of,
    key_of,
    late,
    wait_before,
    whole,
    words_of,
)
from trsr.models.markup import escape_special_tokens
from trsr.models.settings import ModelSettings
from trsr.models.thinking import Unsaid, after_thinking
from trsr.settings import derive_seed
from trsr.types import Prompt

if TYPE_CHECKING:
    import openai

LONGEST_ASKED_WAIT = 600.0  # an endpoint that asks for more (a day's quota) is given up at once
_RETRIED = frozenset({408, 409, 425, 429})  # beside all of 500 and above
_TURN_OFF = (
    'turn the thinking off in model.extra, such as chat_template_kwargs = {"enable_thinking" = '
    'false} or reasoning_effort = "none", as the endpoint names it'
)
_BYTES_A_TOKEN = 3
_TOKENS_A_MESSAGE = 8
_TOKENS_A_PROMPT = 32  # a layout may put a system message of its own before ours
_ADVICE = {
    400: "Look at model.context_tokens, model.prefill, model.extra and the sampling",
    401: "Look at the key in the environment variable {key_env} (model.key_env)",
    403: "Look at the key in the environment variable {key_env} (model.key_env)",
    404: "Look at model.base_url (most end in /v1) and model.name",
    413: "Look at model.context_tokens",
    422: "Look at model.prefill, model.extra and the sampling",
}


@dataclass(frozen=True)
class Usage:
    """What a model's requests came to, as far as the endpoint said.

    Attributes:
        prompt_tokens: Tokens of all answered prompts.
        answer_tokens: Tokens of all answers.
        requests: Requests sent, failed ones included.
        retries: Requests sent again after a failed one.
        cost: By the settings' prices, in their currency.
        without_text: Answers that hold no text: still thinking, filtered, or empty.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    requests: int = 0
    retries: int = 0
    cost: float = 0.0
    without_text: int = 0


def open_model(settings: ModelSettings, adapter: Path | None = None) -> OpenAIModel:
    """Opens an endpoint; nothing is sent yet.

    Raises:
        ConfigError: If the address or the key is missing or wrong, or an adapter is given.
        ModelError: If the `openai` package is not installed.
    """
    if adapter is not None:
        raise ConfigError(
            "model.backend: an endpoint cannot take the adapter that was trained here: serve it "
            "there, or use the transformers backend"
        )
    return OpenAIModel(settings)


class OpenAIModel:
    """A `LanguageModel` behind an OpenAI-compatible chat endpoint; it gives no scores.

    `max_tokens`, `temperature`, `top_p` and `seed` are sent. The repetition settings have no
    field that endpoints agree on and are left out; `model.extra` holds whatever an endpoint knows
    by another name, such as `repetition_penalty`. Of a model that thinks, the text is what follows
    its thinking. Answers without a text (the thinking was cut, or the endpoint filters) are empty
    texts: they are counted, named in the log, and not asked again.

    Raises:
        ConfigError: If the address or the key is missing or wrong.
        ModelError: If the `openai` package is not installed.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.address = address_of(settings.base_url)
        self._key = key_of(settings, self.address)
        self._client = client_of(settings, self.address, self._key)
        weakref.finalize(self, self._client.close)
        self._limit = "max_tokens"
        self._lock = threading.Lock()
        self._usage = Usage()
        self._unsaid = Unsaid()

    @property
    def identity(self) -> str:
        """Endpoint, model and the settings that its texts depend on."""
        extra = json.dumps(self.settings.extra, sort_keys=True)
        begun = "continues" if self.settings.prefill else "starts anew"
        specials = self.settings.special_name
        return f"openai {self.settings.name} at {self.address}, {begun}, {extra}{specials}"

    @property
    def context_tokens(self) -> int:
        """The bound set in the settings: an endpoint does not tell its own."""
        return self.settings.context_tokens

    @property
    def usage(self) -> Usage:
        """What all requests until now came to."""
        return self._usage

    def count_tokens(self, prompt: Prompt) -> int:
        """A careful estimate: a token for three bytes of UTF-8, eight a message, 32 a prompt.

        English text has a token for four to five bytes; the tokenizer itself is not known here.
        """
        messages = text_only(prompt, "openai").messages
        sizes = (len(m.content.encode("utf-8", "replace")) for m in messages)
        return _TOKENS_A_PROMPT + sum(
            math.ceil(size / _BYTES_A_TOKEN) + _TOKENS_A_MESSAGE for size in sizes
        )

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) as each is answered, `concurrency` requests at once.

        When a request fails for good no new ones are sent, answers still on their way are yielded
        and then the failure is raised: nothing that was answered, and paid for, is lost.

        Raises:
            ModelError: If the endpoint refuses a request, or fails at each of the tries; the
                message names the endpoint, the tries and the last reason, and never the key.
        """
        source = iter(prompts)
        finished: queue.SimpleQueue[tuple[int, str | BaseException]] = queue.SimpleQueue()
        stop = threading.Event()
        sent = under_way = 0
        ended = False
        failure: BaseException | None = None
        try:
            while True:
                while not (ended or failure) and under_way < self.settings.concurrency:
                    try:
                        prompt = next(source)
                    except StopIteration:
                        ended = True
                        break
                    if prompt is None:
                        break
                    _start(lambda p=prompt: self._ask(p, sampling, stop), sent, finished)
                    sent, under_way = sent + 1, under_way + 1
                if not under_way:
                    break
                index, outcome = finished.get()
                under_way -= 1
                if isinstance(outcome, str):
                    yield index, outcome
                else:
                    failure = failure or outcome
                    stop.set()
        finally:
            stop.set()  # also when the caller stops reading: no try after those under way
            self._unsaid.tell(_TURN_OFF)
        if failure is not None:
            raise failure
        if not ended:
            raise RuntimeError("the feed waits for an answer, but none is being made")

    def _ask(self, prompt: Prompt, sampling: Sampling, stop: threading.Event) -> str:
        """One prompt's text, with as many tries as the settings allow."""
        body = self._body(prompt, sampling)
        tries = self.settings.retries + 1
        reason = ""
        for attempt in range(tries):
            try:
                self._count(requests=1, retries=int(attempt > 0))
                return after(prompt.begun, self._within(body))
            except AgainError as error:
                reason = str(error)
                if error.wait > LONGEST_ASKED_WAIT:
                    reason += f"; it asks to wait {error.wait:.0f} s"
                    tries = attempt + 1
                    break
                if attempt + 1 < tries and stop.wait(wait_before(error.wait, attempt, body)):
                    raise ModelError(f"{self.address}: stopped; {reason}") from None
        raise ModelError(
            f"{self.address} gave no answer in {tries} tries (model.retries), the last time: "
            f"{reason}. What was answered is kept: run the same command again to go on"
        )

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        messages = text_only(prompt, "openai").messages
        if prompt.begun and not self.settings.prefill:
            messages = messages[:-1]
        said = [
            {
                "role": message.role,
                "content": escape_special_tokens(message.content, self.settings.special_tokens),
            }
            for message in messages
        ]
        body: dict[str, Any] = {"model": self.settings.name, "messages": said}
        body["temperature"] = sampling.temperature
        if sampling.temperature > 0:
            body["top_p"] = sampling.top_p
            body["seed"] = derive_seed(sampling.seed, *prompt.seed_parts) % 2**31
        body["max_tokens"] = sampling.max_tokens
        return body

    def _within(self, body: dict[str, Any]) -> str:
        """`_try`, given up at the deadline even where a byte comes now and then."""
        finished: queue.SimpleQueue[tuple[int, str | BaseException]] = queue.SimpleQueue()
        _start(lambda: self._try(body), 0, finished)
        try:
            _, outcome = finished.get(timeout=self.settings.timeout + 1)
        except queue.Empty:
            raise late(self.settings.timeout) from None
        if isinstance(outcome, str):
            return outcome
        raise outcome

    def _try(self, body: dict[str, Any]) -> str:
        """Sends one request.

        Raises:
            AgainError: If another try may do better.
            ModelError: If it cannot.
        """
        import openai

        limit = self._limit
        fields = {limit if name == "max_tokens" else name: value for name, value in body.items()}
        create = self._client.chat.completions.with_raw_response.create
        try:
            answer = create(**fields, extra_body=self.settings.extra)
        except openai.APITimeoutError:
            raise late(self.settings.timeout) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, (AgainError, ModelError)):  # of our own (`_watched`)
                raise error.__cause__ from None
            raise AgainError(f"{self._without_key(str(error.__cause__ or error))}") from None
        except openai.APIStatusError as error:
            newer = "max_completion_tokens"  # the only name that the newest models take
            if error.status_code == 400 and limit != newer and newer in error.response.text:
                self._limit = newer
                return self._try(body)
            raise self._refusal(error) from None
        return self._text(answer.text, body["max_tokens"])

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """What an HTTP status other than success means for us."""
        status = error.status_code
        said = self._without_key(words_of(error.response.text))
        if status in _RETRIED or status >= 500:
            return AgainError(f"HTTP {status}: {said}", asked_wait(error.response.headers))
        advice = _ADVICE.get(status, "Look at model.base_url").format(key_env=self.settings.key_env)
        return ModelError(f"{self.address} refused (HTTP {status}): {said}. {advice}")

    def _text(self, answer: str, max_tokens: int) -> str:
        """The text of a successful answer, its tokens counted; empty where it holds none."""
        try:
            content = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise AgainError(f"malformed JSON ({type(error).__name__}: {error})") from None
        try:
            choice = content["choices"][0]
            said = Said.of(choice["message"], choice.get("finish_reason"))
        except (LookupError, TypeError, AttributeError):
            said = None
        if said is None:
            raise AgainError(f"an answer without a text: {self._without_key(words_of(answer))}")
        used = content.get("usage") or {}
        text = self._said(said, max_tokens)
        self._count(
            prompt_tokens=whole(used, "prompt_tokens"),
            answer_tokens=whole(used, "completion_tokens"),
            without_text=int(not text.strip()),
        )
        return text

    def _said(self, said: Said, max_tokens: int) -> str:
        """What follows the thinking; empty, and counted with its reason, where nothing does."""
        text, cut = after_thinking(said.text)
        finish = self._without_key(said.finish)
        if said.finish == "content_filter":
            text = ""  # a part of an answer is none
        if text.strip():
            return text
        with self._lock:
            if cut or said.thought:
                self._unsaid.still_thinking(max_tokens, finish)
            else:
                self._unsaid.counts[f"finish_reason {finish or 'not told'}"] += 1
        return ""

    def _count(
        self,
        prompt_tokens: int = 0,
        answer_tokens: int = 0,
        requests: int = 0,
        retries: int = 0,
        without_text: int = 0,
    ) -> None:
        price = prompt_tokens * self.settings.price_in + answer_tokens * self.settings.price_out
        with self._lock:
            old = self._usage
            self._usage = Usage(
                old.prompt_tokens + prompt_tokens,
                old.answer_tokens + answer_tokens,
                old.requests + requests,
                old.retries + retries,
                old.cost + price / 1e6,
                old.without_text + without_text,
            )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _start(
    work: Any, index: int, finished: queue.SimpleQueue[tuple[int, str | BaseException]]
) -> None:
    """Runs one request in a thread that does not keep a stopped program alive."""

    def run() -> None:
        try:
            finished.put((index, work()))
        except BaseException as error:  # it is raised again where the answers are read
            finished.put((index, error))

    threading.Thread(target=run, daemon=True, name=f"trsr-openai-{index}").start()
