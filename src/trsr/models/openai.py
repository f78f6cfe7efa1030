"""Texts from any OpenAI-compatible chat endpoint, with many requests at once."""

from __future__ import annotations

import base64
import importlib
import json
import math
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models.base import Feed, FeedReader, Q, Sampling, ScoringModel
from trsr.models.http import (
    ReceivedMessage,
    address_of,
    after,
    answer_json,
    asked_wait,
    error_text,
    here,
    key_of,
    token_count,
    wait_before,
)
from trsr.models.markup import escape_special_tokens
from trsr.models.settings import ModelSettings
from trsr.models.thinking import MissingTexts, after_thinking
from trsr.settings import derive_seed
from trsr.storage.images import ImageError, sendable
from trsr.types import Content, Image, Message, Prompt

if TYPE_CHECKING:
    import openai

A = TypeVar("A")

LONGEST_ASKED_WAIT = 600.0  # we give up where the endpoint asks for more (a day's quota)
_RETRIED = frozenset({408, 409, 425, 429})  # beside all of 500 and above
_FINAL = frozenset({501, 505})  # but those: the server cannot do it
MOST_BYTES = 2**24
"""Of an answer's body: far more than any model writes."""
_TURN_OFF = (
    'turn the thinking off in model.extra, such as chat_template_kwargs = {"enable_thinking" = '
    'false} or reasoning_effort = "none", as the endpoint names it'
)
_BLIND = re.compile(r"image|multi.?modal|mmproj|vision", re.IGNORECASE)
"""In what an endpoint says of a message with an image: that it is the image."""
_BYTES_A_TOKEN = 3
_TOKENS_A_MESSAGE = 8
_TOKENS_A_PROMPT = 32  # a chat format may put a system message of its own before ours
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
    """The totals of a model's requests, as far as the endpoint gave them.

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


class AgainError(Exception):
    """A try failed in a way that another one may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the endpoint asked for


class RefusedError(ModelError):
    """An endpoint refused a request, with this HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def open_model(settings: ModelSettings, adapter: Path | None = None) -> OpenAIModel | ScoringModel:
    """Opens an endpoint, as a `ScoringModel` with `model.scorer = "endpoint"`; nothing is sent yet.

    Raises:
        ConfigError: If the address or the key is missing or wrong, or an adapter is given.
        ModelError: If the `openai` package is not installed.
    """
    if adapter is not None:
        raise ConfigError(
            "model.backend: an endpoint cannot take the adapter that was trained here: serve it "
            "there, or use the transformers backend"
        )
    if settings.scorer == "endpoint":
        from trsr.models.hf.endpoint import EndpointScorer  # transformers, which texts do not need

        return EndpointScorer(settings)
    return OpenAIModel(settings)


class OpenAIModel:
    """A `LanguageModel` behind an OpenAI-compatible chat endpoint; it gives no scores.

    It sends `max_tokens`, `temperature`, `top_p` and `seed`. Endpoints agree on no field for the
    repetition settings: `model.extra` takes them under the endpoint's names. Thinking is dropped.
    Answers without a text (the thinking was cut, or the endpoint filters) are counted and logged,
    and not asked again.

    Raises:
        ConfigError: If the address or the key is missing or wrong.
        ModelError: If the `openai` package is not installed.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.address = address_of(settings.base_url)
        self._key = key_of(settings, self.address)
        self._client = _client(settings, self.address, self._key)
        weakref.finalize(self, self._client.close)
        self._limit = "max_tokens"
        self._lock = threading.Lock()
        self._usage = Usage()
        self._missing = MissingTexts()

    @property
    def identity(self) -> str:
        """Endpoint, model and the settings that its texts depend on."""
        extra = json.dumps(self.settings.extra, sort_keys=True)
        begun = "continues" if self.settings.prefill else "starts anew"
        specials = self.settings.special_name
        return f"openai {self.settings.name} at {self.address}, {begun}, {extra}{specials}"

    @property
    def takes_images(self) -> bool:
        """Whether prompts may hold images: the endpoint says no where its model takes none."""
        return True

    @property
    def context_tokens(self) -> int:
        """The bound in the settings: an endpoint does not give its own."""
        return self.settings.context_tokens

    @property
    def usage(self) -> Usage:
        """The totals of all requests so far."""
        return self._usage

    def count_tokens(self, prompt: Prompt) -> int:
        """A careful estimate: a token for three bytes of UTF-8, eight a message, 32 a prompt.

        English text has a token for four to five bytes; the tokenizer itself is not known here. An
        image counts as `model.image_tokens`.
        """
        tokens = _TOKENS_A_PROMPT
        for message in prompt.messages:
            said = "".join(part for part in message.parts if isinstance(part, str))
            size = len(said.encode("utf-8", "replace"))
            tokens += math.ceil(size / _BYTES_A_TOKEN) + _TOKENS_A_MESSAGE
            images = sum(isinstance(part, Image) for part in message.parts)
            tokens += images * self.settings.image_tokens
        return tokens

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) as each is answered, `concurrency` requests at once.

        When a request fails for good no new ones are sent, answers under way are yielded, and then
        the failure is raised.

        Raises:
            ModelError: If the endpoint refuses a request, or fails at each of the tries; the
                message names the endpoint, the tries and the last reason, and never the key.
        """
        try:
            yield from self.answers(prompts, lambda prompt, stop: self._ask(prompt, sampling, stop))
        finally:
            self._missing.log(_TURN_OFF)

    def answers(
        self, questions: Iterable[Q | None], ask: Callable[[Q, threading.Event], A]
    ) -> Iterator[tuple[int, A]]:
        """Asks questions, `concurrency` at once, and yields (position, answer) as each comes.

        Args:
            questions: What is asked, as a `Feed`.
            ask: Gives a question's answer in a thread of its own; no try is made once its event is
                set.

        Raises:
            ModelError: As `generate`, when the answers under way are yielded.
        """
        feed = FeedReader(questions)
        finished: queue.SimpleQueue[tuple[int, A | BaseException]] = queue.SimpleQueue()
        stop = threading.Event()
        under_way = 0
        failure: BaseException | None = None
        try:
            while True:
                room = 0 if failure else self.settings.concurrency
                while under_way < room and (entry := feed.take()):
                    index, question = entry
                    _start(lambda q=question: ask(q, stop), index, finished)
                    under_way += 1
                if not under_way:
                    break
                index, outcome = finished.get()
                under_way -= 1
                if isinstance(outcome, BaseException):
                    failure = failure or outcome
                    stop.set()
                else:
                    yield index, outcome
        finally:
            stop.set()  # also when the caller stops reading: no try after those under way
        if failure is not None:
            raise failure
        feed.check_ended()

    def _ask(self, prompt: Prompt, sampling: Sampling, stop: threading.Event) -> str:
        """One prompt's text, with as many tries as the settings allow."""
        body = self._body(prompt, sampling)
        most = sampling.max_tokens
        text = self.request("/chat/completions", body, lambda said: self._text(said, most), stop)
        return after(prompt.begun, text)

    def request(
        self,
        path: str,
        body: dict[str, Any] | None,
        read: Callable[[str], A],
        stop: threading.Event | None = None,
    ) -> A:
        """What an endpoint answers, with as many tries as the settings allow, each in time.

        Args:
            path: Below the address, or a whole address on the same host.
            body: What is sent, `model.extra` added; None: nothing, by GET.
            read: Makes the answer of its JSON; an `AgainError` asks for another try.
            stop: No try is made once it is set.

        Raises:
            ModelError: If the endpoint refuses the request, or fails at each of the tries.
        """
        tries = self.settings.retries + 1
        reason = ""
        for attempt in range(tries):
            try:
                self._count(requests=1, retries=int(attempt > 0))
                return read(self._try_until_deadline(path, body))
            except AgainError as error:
                reason = str(error)
                if error.wait > LONGEST_ASKED_WAIT:
                    reason += f"; it asks to wait {error.wait:.0f} s"
                    tries = attempt + 1
                    break
                wait = wait_before(error.wait, attempt, body)
                if attempt + 1 < tries and (stop or threading.Event()).wait(wait):
                    raise ModelError(f"{self.address}: stopped; {reason}") from None
        raise ModelError(
            f"{self.address} gave no answer in {tries} tries (model.retries), the last time: "
            f"{reason}. Its answers so far are cached: run the same command again to resume"
        )

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        messages = prompt.messages
        if prompt.begun and not self.settings.prefill:
            messages = messages[:-1]
        said = [{"role": one.role, "content": self._content(one)} for one in messages]
        body: dict[str, Any] = {"model": self.settings.name, "messages": said}
        body["temperature"] = sampling.temperature
        if sampling.temperature > 0:
            body["top_p"] = sampling.top_p
            body["seed"] = derive_seed(sampling.seed, *prompt.seed_parts) % 2**31
        body["max_tokens"] = sampling.max_tokens
        return body

    def _content(self, message: Message) -> str | list[dict[str, Any]]:
        """What an endpoint gets of a message: its text, or its parts where an image is among them.

        Raises:
            PromptError: If a part is neither.
        """
        specials = self.settings.special_tokens
        if message.other is None:
            return escape_special_tokens(message.content, specials)
        return [_part(part, message.role, specials) for part in message.parts]

    def _try_until_deadline(self, path: str, body: dict[str, Any] | None) -> str:
        """`_try`, given up at the deadline even if bytes trickle in."""
        finished: queue.SimpleQueue[tuple[int, str | BaseException]] = queue.SimpleQueue()
        _start(lambda: self._try(path, body), 0, finished)
        try:
            _, outcome = finished.get(timeout=self.settings.timeout + 1)
        except queue.Empty:
            raise _late(self.settings.timeout) from None
        if isinstance(outcome, str):
            return outcome
        raise outcome

    def _try(self, path: str, body: dict[str, Any] | None) -> str:
        """Sends one request.

        Raises:
            AgainError: If another try may do better.
            ModelError: If it cannot.
        """
        import openai

        limit = self._limit
        try:
            if body is None:
                return self._client.get(path, cast_to=str)
            fields = {limit if name == "max_tokens" else name: one for name, one in body.items()}
            return self._client.post(path, cast_to=str, body=fields | self.settings.extra)
        except openai.APITimeoutError:
            raise _late(self.settings.timeout) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, (AgainError, ModelError)):  # of our own (`_watched`)
                raise error.__cause__ from None
            raise AgainError(f"{self.without_key(str(error.__cause__ or error))}") from None
        except openai.APIStatusError as error:
            newer = "max_completion_tokens"  # the only name that the newest models take
            if error.status_code == 400 and limit != newer and newer in error.response.text:
                self._limit = newer
                return self._try(path, body)
            raise self._refusal(error, body or {}) from None

    def _refusal(self, error: openai.APIStatusError, body: Mapping[str, Any]) -> Exception:
        """What an HTTP status other than success means for us."""
        status = error.status_code
        said = self.without_key(error_text(error.response.text))
        seen = any(isinstance(one["content"], list) for one in body.get("messages", ()))
        # some servers say so by a status that asks for another try
        if seen and status not in _RETRIED and _BLIND.search(said):
            return ModelError(
                f"{self.address} takes no images for the model {self.settings.name} (HTTP "
                f"{status}: {said}). Name a model that sees, or put a descriptions.parquet into "
                "the run"
            )
        if status in _RETRIED or (status >= 500 and status not in _FINAL):
            return AgainError(f"HTTP {status}: {said}", asked_wait(error.response.headers))
        advice = _ADVICE.get(status, "Look at model.base_url").format(key_env=self.settings.key_env)
        return RefusedError(
            f"{self.address} refused (HTTP {status}): {said}. {advice}", status=status
        )

    def _text(self, answer: str, max_tokens: int) -> str:
        """The text of a successful answer, its tokens counted; empty where it holds none."""
        content = self.value(answer)
        try:
            choice = content["choices"][0]
            message = ReceivedMessage.of(choice["message"], choice.get("finish_reason"))
        except (LookupError, TypeError, AttributeError):
            message = None
        if message is None:
            raise AgainError(f"an answer without a text: {self.without_key(error_text(answer))}")
        used = content.get("usage") or {}
        text = self._answer(message, max_tokens)
        self.count(used, without_text=int(not text.strip()))
        return text

    def value(self, answer: str) -> Any:
        """The value of an answer's JSON; an `AgainError` where it is none."""
        try:
            return answer_json(answer)
        except (ValueError, RecursionError) as error:
            raise AgainError(f"malformed JSON ({type(error).__name__}: {error})") from None

    def count(self, used: Any, without_text: int = 0) -> None:
        """Counts what an answer says that it used."""
        self._count(
            prompt_tokens=token_count(used, "prompt_tokens"),
            answer_tokens=token_count(used, "completion_tokens"),
            without_text=without_text,
        )

    def _answer(self, message: ReceivedMessage, max_tokens: int) -> str:
        """The text after the thinking; empty, and counted with its reason, without one."""
        text, cut = after_thinking(message.text)
        finish = self.without_key(message.finish)
        if message.broken_off:
            text = ""  # a part of an answer is none
        if any(letter.isprintable() and not letter.isspace() for letter in text):
            return text
        with self._lock:
            if cut or message.thought:
                self._missing.still_thinking(max_tokens, finish)
            else:
                self._missing.counts[f"finish_reason {finish or 'not given'}"] += 1
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

    def without_key(self, text: str) -> str:
        """A text of the endpoint, in which the key is not repeated."""
        return text.replace(self._key, "[key]") if self._key else text


def _part(part: Content, role: str, specials: Collection[str]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": escape_special_tokens(part, specials)}
    if not isinstance(part, Image):
        raise PromptError(f"the backend openai takes text and images, and role {role} holds {part}")
    try:
        kind, data = sendable(part)
    except ImageError as error:
        raise PromptError(f"{part} {error}") from error
    address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": address}}


def _client(settings: ModelSettings, address: str, key: str) -> openai.OpenAI:
    try:
        import openai
    except ImportError as error:
        raise ModelError(
            "the openai backend needs the openai package: pip install 'trsr[openai]'"
        ) from error
    return openai.OpenAI(
        api_key=key or "none",  # the package insists on one; a server on this machine ignores it
        base_url=address,
        timeout=settings.timeout,
        max_retries=0,  # ours are counted, and cover malformed answers too
        default_headers={"Accept-Encoding": "identity"},  # a small body cannot become a large one
        # A proxy for the world outside must not get what is said on this machine.
        http_client=openai.DefaultHttpxClient(
            trust_env=not here(address),
            event_hooks={"response": [_watched(settings.timeout)]},
        ),
    )


def _watched(timeout: float) -> Callable[[Any], None]:
    """What is done with each response of the HTTP client before it is followed or read."""
    import openai

    # httpx, or httpx2, the fork of it that newer versions of the package stand on
    client: Any = openai.DefaultHttpxClient.__base__
    http: Any = importlib.import_module(client.__module__.partition(".")[0])

    class Bounded(http.SyncByteStream):  # type: ignore[misc]
        """A body that ends in time and is of bounded size."""

        def __init__(self, stream: Any) -> None:
            self.stream, self.ends = stream, time.monotonic() + timeout

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for part in self.stream:
                size += len(part)
                if time.monotonic() > self.ends:
                    raise _late(timeout)
                if size > MOST_BYTES:
                    raise AgainError(f"an answer of more than {MOST_BYTES:,} bytes")
                yield part

        def close(self) -> None:
            self.stream.close()

    def watch(response: Any) -> None:
        packed = response.headers.get("content-encoding", "identity")
        if packed not in ("identity", ""):
            raise AgainError(f"an answer packed as {packed[:20]}, which was not asked for")
        response.stream = Bounded(response.stream)
        if response.has_redirect_location:
            place = response.headers["location"]
            _check_redirect(response.request.url, place, response.status_code)

    return watch


def _late(timeout: float) -> AgainError:
    return AgainError(f"no answer within {timeout:g} s (model.timeout)")


def _check_redirect(old: Any, place: str, status: int) -> None:
    """Refuses a redirect to another host: what is said of people goes to the one that is set.

    Raises:
        ModelError: Names the place that it points to.
    """
    try:
        new = old.join(place)
    except Exception as error:  # the client's errors of addresses have no base
        raise ModelError(f"{old} answers with a redirect to no address: {error}") from None
    safer = old.scheme == "http" and new.scheme == "https" and old.host == new.host
    if safer or (old.scheme, old.host, old.port) == (new.scheme, new.host, new.port):
        return
    raise ModelError(
        f"{old.scheme}://{old.netloc.decode()} answers with a redirect (HTTP {status}) to "
        f"{new.scheme}://{new.netloc.decode()}, where nothing is sent: set model.base_url to it if "
        "you trust it"
    )


def _start(
    work: Any, index: int, finished: queue.SimpleQueue[tuple[int, A | BaseException]]
) -> None:
    """Runs one request in a thread that does not keep a stopped program alive."""

    def run() -> None:
        try:
            finished.put((index, work()))
        except BaseException as error:  # it is raised again where the answers are read
            finished.put((index, error))

    threading.Thread(target=run, daemon=True, name=f"trsr-openai-{index}").start()
