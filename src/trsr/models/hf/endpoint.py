"""Scores of a model that an endpoint serves: vLLM, SGLang, llama.cpp's server, and the like.

Prompts are sent as tokens, so the chat format is ours, and answers hold log-probabilities of the
next token. SGLang gives those of chosen tokens by `/v1/score`, vLLM by `logprob_token_ids` of
`/v1/completions`. Other servers list the likeliest ones and the one that they choose: an answer
that is not listed is asked for again, and made to be chosen.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trsr.errors import ModelError, PromptError
from trsr.models.base import Feed, LanguageModel, ModelWrapper, Sampling, ScoringModel, Table
from trsr.models.chat_format import ChatFormat, FormattedModel, Question
from trsr.models.hf import load
from trsr.models.hf.model import TransformersModel, answer_steps
from trsr.models.http import token_count
from trsr.models.openai import AgainError, OpenAIModel, RefusedError
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.tokens import Tokens
from trsr.models.weights import local_weights, sees
from trsr.storage import files
from trsr.types import Message, Prompt

_log = logging.getLogger(__name__)

PARITY = 0.25
"""Nats by which a margin may differ from that of the weights here: numbers of 16 or 8 bits do."""
SAME = 1e-6
"""Nats: margins that differ by less are equal."""
_LISTED = 20  # likeliest tokens that are asked for: vLLM refuses more by default
_BOUNDED = 0.05
"""The largest share of answers' tokens that an endpoint may not give, of `_ENOUGH` or more."""
_ENOUGH = 16
_ANEW = {"cache_prompt": False, "cache_salt": "trsr"}
"""By these llama.cpp and vLLM compute a prompt anew; others do not know them."""
_UNKEYED = (401, 403)
_SERVED = 8  # models of one endpoint that are tried
_HISTORY = "a novel about the sea, two old films, "
PROBES = tuple(
    Prompt(
        (
            Message("system", "You say what a user would like. Answer only Yes or No."),
            Message("user", f"The user liked: {_HISTORY * count}{last}. Next: {item}. Yes or No?"),
        )
    )
    for count, last, item in (
        (0, "tea", "a cup"),
        (1, "green tea", "a war film, 1963"),
        (2, "a garden chair", "a green lamp"),
        (4, "12 steel bolts", "another novel by the same author, with maps"),
    )
)
"""What an endpoint is asked first. They differ in length, which is where padding goes wrong."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an endpoint says of the token after a prompt.

    Attributes:
        found: Log-probabilities by token: its number, or its text where the endpoint gives that.
        least: No token that is not in `found` is likelier.
        read: How many tokens it read of the prompt; 0 where it does not say.
    """

    found: Mapping[int | str, float]
    least: float
    read: int


class _Completions:
    """`/v1/completions`, as vLLM, llama.cpp's server and others have it."""

    path = "/completions"

    def __init__(self, forced: bool = False) -> None:
        self.forced = forced

    def body(self, tokens: Tokens, wanted: Sequence[int]) -> dict[str, Any]:
        """Asks for the next token; what a server does not know of it, it leaves out."""
        asked = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0.0, "logprobs": _LISTED}
        named = {"logprob_token_ids": list(wanted), "return_tokens_as_token_ids": True}
        return asked | named | (_chosen(wanted[0]) if self.forced else {})

    def read(self, value: Any, wanted: Sequence[int]) -> Step | None:
        """Reads OpenAI's older shape (vLLM) or that of chats (llama.cpp); None without numbers."""
        said = value["choices"][0].get("logprobs")
        if not said:
            return None
        if isinstance(said.get("content"), list):
            first = said["content"][0]
            chosen = first.get("id", first["token"]), first["logprob"]
            rows = [(one.get("id", one["token"]), one["logprob"]) for one in first["top_logprobs"]]
        else:
            chosen = said["tokens"][0], said["token_logprobs"][0]
            rows = [*(said["top_logprobs"] or [{}])[0].items()]
        least = min(float(number) for _, number in rows or [chosen])
        found = {_token(name): float(number) for name, number in (*rows, chosen)}
        return Step(found, least, token_count(value.get("usage"), "prompt_tokens"))


class _Score:
    """SGLang's `/v1/score`: the probability of each chosen token."""

    path = "/score"

    def body(self, tokens: Tokens, wanted: Sequence[int]) -> dict[str, Any]:
        """One item a request: a server may join several into one sequence."""
        asked = {"query": [], "items": [list(tokens)], "label_token_ids": list(wanted)}
        return asked | {"apply_softmax": False, "item_first": False}

    def read(self, value: Any, wanted: Sequence[int]) -> Step | None:
        """What is too small for a number of 64 bits is the smallest one."""
        (row,) = value["scores"]
        pairs = zip(wanted, row, strict=True)
        found: dict[int | str, float] = {
            token: math.log(max(float(one), 5e-324)) for token, one in pairs
        }
        return Step(found, 0.0, token_count(value.get("usage"), "prompt_tokens"))


class LocalWeights(ModelWrapper):
    """The weights that an endpoint's scores are held to, in float32; open while they score."""

    def __init__(self, settings: ModelSettings, adapter: Path | None, inner: LanguageModel) -> None:
        super().__init__(inner)
        exact = {"scorer": "torch", "dtype": "float32", "quantize": "none"}
        self.settings = settings.model_copy(update=exact)
        self.adapter = adapter

    @property
    def identity(self) -> str:
        """As of the opened model."""
        folder = local_weights(self.settings.name, revision=self.settings.revision)
        named = load.identity(self.settings, folder, self.adapter, "float32")
        return named + self.settings.special_name

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """See `LanguageModel`."""
        return TransformersModel(self.settings, self.adapter).generate(prompts, sampling)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Table:
        """See `ScoringModel`."""
        return TransformersModel(self.settings, self.adapter).score(prompts, answers)


class EndpointScorer(FormattedModel):
    """A `ScoringModel` whose scores an endpoint computes.

    Before the first answer it asks `PROBES`, and refuses an endpoint whose scores cannot be trusted
    (`_check`). With the backend `transformers` the weights are here too: scores are held to theirs,
    so of several served models the one with the same scores is taken. With the backend `openai`
    only the tokenizer is here, and `model.name` is what the endpoint must serve.

    Raises:
        ConfigError: If the address or the key is missing or wrong.
        ModelError: If there is no such tokenizer, or the `openai` package is not installed.
    """

    def __init__(self, settings: ModelSettings, adapter: Path | None = None) -> None:
        self.settings = settings
        self._adapter = adapter
        self.endpoint = OpenAIModel(settings)
        local = settings.backend == "transformers"
        folder = local_weights(settings.name, revision=settings.revision, whole=local)
        tokenizer = load.load_tokenizer(folder)
        specials = settings.special_tokens
        self.chat_format = ChatFormat(tokenizer, settings.name, "endpoint", specials)
        self.takes_images = not local or sees(folder)
        self.reference: ScoringModel | None = None
        if local:
            self.reference = LocalWeights(settings, adapter, self)
            self._identity = f"{self.reference.identity} at {self.endpoint.address}"
        else:
            read = f"read by the tokenizer {load.tokenizer_digest(folder)}"
            self._identity = f"{self.endpoint.identity}, {read}"
        config = folder / "config.json"
        known = files.read_json(config) if files.is_file(config) else {}
        own = known.get("max_position_embeddings", settings.context_tokens)
        self._context_tokens = min(settings.context_tokens, int(own))
        self._preflight_lock, self._counts_lock = threading.Lock(), threading.Lock()
        self._checked = False
        self._served = settings.name
        self._asking: _Completions | _Score = _Completions()
        self._forcing = True  # whether a token that is made to be chosen is given as it was
        self._asked = self._bounded = 0
        self._says_read = True  # whether the endpoint says how many tokens it read

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """As the backend: texts of the endpoint, or of the weights here."""
        writer: LanguageModel = self.endpoint if self.reference is None else self.reference
        return writer.generate(prompts, sampling)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Table:
        """The log-probability of each answer after each prompt: see `score_each`."""
        rows = np.zeros((len(prompts), len(answers)))
        for place, row in self.score_each(prompts, answers):
            rows[place] = row
        return rows

    def score_each(
        self, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> Iterator[tuple[int, list[float]]]:
        """Yields (position of the prompt, log-probabilities of its answers) as each comes.

        `concurrency` requests are under way at once, one for each prompt; answers of several tokens
        need further ones.

        Raises:
            ModelError: If two answers have the same tokens, the endpoint fails for good, its scores
                cannot be trusted, or too many answers are not among the tokens that it lists.
            PromptError: If a prompt with an answer exceeds the context.
        """
        questions = self.chat_format.questions(prompts, answers)
        for question in questions:
            longest = len(question.stem) + max(map(len, question.answers), default=0)
            if longest > self.context_tokens:
                raise PromptError(
                    f"a prompt has {longest} tokens with its answer, but {self.settings.name} is "
                    f"read with at most {self.context_tokens}: shorten the prompt or raise "
                    "model.context_tokens"
                )
        with self._preflight_lock:
            if questions and not self._checked:
                self._preflight(answers)
                self._checked = True
        bounded = self._bounded
        try:
            yield from self.endpoint.answers(questions, self._row)
        finally:
            if self._bounded > bounded:
                _log.warning("%s", self._missing)

    def _row(
        self, question: Question, stop: threading.Event, fields: Mapping[str, Any] | None = None
    ) -> list[float]:
        """Each answer's log-probability: the sum over its tokens."""
        wanted: dict[Tokens, list[int]] = {}
        for sequence, token in answer_steps(question):
            tokens = wanted.setdefault(sequence, [])
            tokens += [token] if token not in tokens else []
        known: dict[tuple[Tokens, int], float] = {}
        for sequence, tokens in wanted.items():
            numbers = self._next(sequence, tokens, stop, fields or {})
            known |= {(sequence, token): one for token, one in numbers.items()}
        return [
            sum(known[step] for step in answer_steps(Question(question.stem, (answer,))))
            for answer in question.answers
        ]

    def _next(
        self,
        tokens: Tokens,
        wanted: Sequence[int],
        stop: threading.Event,
        fields: Mapping[str, Any],
    ) -> dict[int, float]:
        """Log-probabilities of wanted tokens after others; what is not given has the bound."""
        step = self._step(tokens, wanted, stop, fields)
        known = self._among(step, wanted)
        for token in wanted:
            if token not in known and self._forcing:
                again = self._step(tokens, [token], stop, {**fields, **_chosen(token)})
                value = self._among(again, [token]).get(token, math.inf)
                # a server that counts the bias too gives more than was listed
                self._forcing = value <= step.least + SAME
                known |= {token: value} if self._forcing else {}
        with self._counts_lock:
            self._says_read &= step.read > 0
            self._asked += len(wanted)
            self._bounded += len(wanted) - len(known)
            if self._asked >= _ENOUGH and self._bounded > _BOUNDED * self._asked:
                raise ModelError(
                    f"{self._missing}: too many to rank by. Serve the model with a vLLM that knows "
                    "logprob_token_ids, or with SGLang or llama.cpp; or raise what the endpoint "
                    "lists, and ask for as many (model.extra = { logprobs = 100 })"
                )
        return {token: known.get(token, step.least) for token in wanted}

    def _step(
        self,
        tokens: Tokens,
        wanted: Sequence[int],
        stop: threading.Event,
        fields: Mapping[str, Any],
    ) -> Step:
        body = {"model": self._served} | self._asking.body(tokens, wanted) | dict(fields)

        def read(answer: str) -> Step:
            value = self.endpoint.value(answer)
            try:
                step = self._asking.read(value, wanted)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise AgainError(f"an answer of another shape ({type(error).__name__})") from None
            if step is None:
                raise ModelError(
                    f"{self._place} gives no log-probabilities: serve the model with vLLM, SGLang "
                    "or llama.cpp's server, or set model.scorer = 'torch'"
                )
            if not all(math.isfinite(one) and one < SAME for one in step.found.values()):
                raise AgainError("numbers that are no log-probabilities")
            self.endpoint.count(value.get("usage"))
            return step

        step = self.endpoint.request(self._asking.path, body, read, stop)
        if step.read not in (0, len(tokens)):
            raise ModelError(
                f"{self._place} read {step.read} tokens of a prompt of {len(tokens)}: it cuts "
                "prompts, or puts another chat format around them. Raise its context (vLLM "
                "--max-model-len, SGLang --context-length, llama.cpp --ctx-size) and start it "
                "without a template for completions"
            )
        return step

    def _among(self, step: Step, wanted: Sequence[int]) -> dict[int, float]:
        """Those of the wanted tokens that are listed, by number or text."""
        names = {token: (token, self.chat_format.tokenizer.decode([token])) for token in wanted}
        return {
            token: next(step.found[name] for name in both if name in step.found)
            for token, both in names.items()
            if any(name in step.found for name in both)
        }

    @property
    def _place(self) -> str:
        return f"{self.endpoint.address} (model {self._served})"

    @property
    def _missing(self) -> str:
        return (
            f"{self._place}: of {self._asked:,} tokens of answers it did not give "
            f"{self._bounded:,}, which were taken for as likely as the last that it lists"
        )

    def _preflight(self, answers: Sequence[str]) -> None:
        """Refuses an endpoint whose scores cannot be trusted.

        Raises:
            ModelError: Says what is wrong with it, and what to do.
        """
        names = self._models()
        self._check_vocabulary()
        room = self.context_tokens - max(map(len, answers))
        probes = [one for one in PROBES if self.count_tokens(one) <= room]
        if len(probes) < 2:
            raise ModelError(
                f"model.context_tokens: {self.context_tokens} leave no room for the prompts by "
                f"which {self.endpoint.address} is tested; raise it"
            )
        questions = self.chat_format.questions(probes, answers)
        expected = None
        if self.reference is not None:
            expected = _margins(self.reference.score(probes, answers))
        differing = {}
        for name in names:
            self._served, self._asked, self._bounded = name, 0, 0
            margins = self._probed(questions)
            off = 0.0 if expected is None else float(np.abs(margins - expected).max())
            if off <= PARITY:
                break
            differing[name] = f"{name} by {off:.2g} nats"
        else:
            raise ModelError(
                f"{self.endpoint.address} scores unlike the weights here, {self.settings.name}"
                f"{'' if self._adapter is None else ' with the adapter of this run'}: "
                f"{', '.join(differing.values())}; {PARITY:g} are allowed. Serve these weights (a "
                "tuned model by `trsr export`, with 16 or 8 bits a number), or leave out rankers "
                'of other weights; what is served is chosen by model.extra = { model = "NAME" }'
            )
        if not self._says_read:
            self._check_uncut(questions[0])

    def _models(self) -> list[str]:
        """The names of served models that may be ours; learns how to ask them."""
        try:
            value = self.endpoint.request("/models", None, self.endpoint.value)
        except RefusedError as error:
            if error.status in _UNKEYED:
                raise
            value = {}  # it has no list
        listed = value.get("data") if isinstance(value, dict) else None
        models = [one for one in listed or () if isinstance(one, dict) and "id" in one]
        for one in models[:1]:
            owner = str(one.get("owned_by"))
            # llama.cpp leaves the numbers out where a part of a letter is chosen
            self._asking = _Score() if owner == "sglang" else _Completions(owner == "llamacpp")
        names = [str(one["id"]) for one in models]
        if named := self.settings.extra.get("model"):
            chosen = [str(named)]
        elif self.reference is not None:
            chosen = names[:_SERVED] or [self.settings.name]
        else:
            chosen = [self.settings.name]
        if self.reference is None and names and chosen[0] not in names:
            raise ModelError(
                f"{self.endpoint.address} serves {', '.join(names[:_SERVED])}, not {chosen[0]}: "
                'serve it under this name, or choose by model.extra = { model = "NAME" }; '
                "model.name is then where its tokenizer is"
            )
        for one in models:
            meta = one.get("meta") if isinstance(one.get("meta"), dict) else {}
            most = token_count(one, "max_model_len") or token_count(meta, "n_ctx")
            if str(one["id"]) in chosen and 0 < most < self.context_tokens:
                raise ModelError(
                    f"{self.endpoint.address} reads at most {most:,} tokens with {one['id']}, and "
                    f"model.context_tokens is {self.context_tokens:,}: lower it to {most}, or "
                    "raise the endpoint's (vLLM --max-model-len, SGLang --context-length, "
                    "llama.cpp --ctx-size for each of --parallel)"
                )
        return chosen

    def _check_vocabulary(self) -> None:
        """Refuses an endpoint for which our tokens are other texts, where it can be asked."""
        text = PROBES[-1].messages[-1].content
        tokens = self.chat_format.tokenizer.encode(text, add_special_tokens=False)
        place = re.sub(r"/v1$", "", self.endpoint.address) + "/detokenize"
        body = {"model": self.settings.extra.get("model", self._served), "tokens": tokens}
        try:
            value = self.endpoint.request(place, body, self.endpoint.value)
        except RefusedError:
            return  # it cannot be asked
        said = [value.get(name) for name in ("prompt", "content", "text")]
        theirs = next((one for one in said if isinstance(one, str)), text)
        if theirs.strip() != text:
            raise ModelError(
                f"{self.endpoint.address} has another vocabulary than {self.settings.name}: it "
                f"reads its tokens of {text[-30:]!r} as {theirs[-30:]!r}. Name in model.name the "
                "model that is served, or a folder with its tokenizer"
            )

    def _probed(self, questions: Sequence[Question]) -> Table:
        """[probes, answers] margins, if they depend on the prompt and on it alone."""
        rows = dict(self.endpoint.answers(questions, self._row))
        together = _margins(np.array([rows[place] for place in range(len(questions))]))
        never = threading.Event()
        alone = _margins(np.array([self._row(one, never, _ANEW) for one in questions]))
        if np.ptp(alone, axis=0).max() < SAME or np.ptp(together, axis=0).max() < SAME:
            raise ModelError(
                f"{self._place} gives equal scores for different items, so its scores do not come "
                "from the prompts: some servers do so where prompts of a batch differ in length. "
                "Take a newer version, serve one prompt at a time, or set model.scorer = 'torch'"
            )
        off = np.abs(together - alone).max()
        if off > PARITY:
            raise ModelError(
                f"{self._place} scores a prompt among others unlike the same prompt alone (by "
                f"{off:.2g} nats; {PARITY:g} are allowed), so a ranking would hang on its "
                "neighbors. Take a newer version, set model.concurrency = 1, or serve with 16 "
                "bits a number"
            )
        return alone

    def _check_uncut(self, question: Question) -> None:
        """Refuses an endpoint that drops a part of the longest prompt, seen by its scores."""
        size = self.context_tokens - 8
        whole = (question.stem * (size // len(question.stem) + 1))[-size:]
        start, end = whole[:16], whole[-16:]
        prompts = [whole, (*start[::-1], *whole[16:]), (*whole[:-16], *end[::-1])]
        tokens = list(dict.fromkeys(answer[0] for answer in question.answers))
        never = threading.Event()
        seen = [[*self._next(one, tokens, never, {}).values()] for one in prompts]
        if any(np.allclose(seen[0], one, rtol=0, atol=SAME) for one in seen[1:]):
            raise ModelError(
                f"{self._place} scores prompts of {size:,} tokens alike that differ at their start "
                "or end: it cuts them. Raise its context (SGLang --context-length), or lower "
                "model.context_tokens"
            )


def _margins(rows: Table) -> Table:
    """[prompts, answers] log-probabilities against their mean over the answers, as ranked by."""
    centered: Table = rows - rows.mean(1, keepdims=True)
    return centered if rows.shape[1] > 1 else rows


def _chosen(token: int) -> dict[str, Any]:
    """The field by which a token is chosen; servers give log-probabilities as before it."""
    return {"logit_bias": {str(token): 100}}


def _token(name: int | str) -> int | str:
    """A token's number, or its text."""
    number = re.fullmatch(r"token_id:(\d+)", name) if isinstance(name, str) else None
    return int(number[1]) if number else name
