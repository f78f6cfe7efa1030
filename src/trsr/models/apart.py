"""A local model that writes in a process of its own, and so holds up nothing in this one.

A step of OpenVINO's pipeline keeps Python's global lock from its begin to its end, up to a second:
no other thread of the process runs meanwhile. The processes speak JSON, a line a message, in turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from trsr.errors import ModelError, PromptError, TrsrError
from trsr.models.base import Feed, FeedReader, LanguageModel, Sampling, text_only
from trsr.models.chat_format import ChatFormat
from trsr.models.settings import ModelSettings, open_model
from trsr.models.weights import local_weights
from trsr.types import Message, Prompt

_NICE = 5
"""How far the process gives way to its parent, where both want a core."""


class ApartModel:
    """A `LanguageModel` of a local backend, in another process; for one thread at a time.

    The process is started again where it has ended.

    Raises:
        ModelError: If the model cannot be loaded.
    """

    def __init__(self, settings: ModelSettings) -> None:
        from trsr.models.hf.load import load_tokenizer

        self.settings = settings
        folder = local_weights(settings.name, revision=settings.revision)
        # prompts are measured here: a question to the other process would wait for its texts
        self._chat_format = ChatFormat(
            load_tokenizer(folder), settings.name, settings.backend, settings.special_tokens
        )
        self._process: subprocess.Popen[str] | None = None
        self._call: object | None = None  # of `generate`, under way
        opened = self._open()
        self._identity, self._context = str(opened["identity"]), int(opened["context_tokens"])

    @property
    def identity(self) -> str:
        """The model's own identity."""
        return self._identity

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer."""
        return self._context

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the model reads it, chat format included."""
        return len(self._chat_format.encode(prompt))

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) as the model itself does.

        Raises:
            ModelError: If the model fails, or its process has ended.
            PromptError: If a prompt leaves no room for its answer.
        """
        if self._process is None or self._process.poll() is not None:
            self._open()
        elif self._call is not None:  # given up, and not closed yet
            self._give_up()
        call = self._call = object()
        feed, going = FeedReader(prompts), True
        said = self._ask({"sampling": sampling.model_dump()})
        try:
            while going:
                if "text" in said:
                    yield said["position"], said["text"]
                    said = self._ask({})
                elif "take" in said:
                    said = self._ask(self._next(feed))
                else:
                    going = False
        finally:
            if self._call is call:
                if going:
                    self._give_up()
                self._call = None
        if "error" in said:
            raise (PromptError if said["kind"] == "PromptError" else ModelError)(said["error"])

    def _give_up(self) -> None:
        """Ends a call: the other side waits for an answer, or is gone."""
        with contextlib.suppress(ModelError):
            self._ask({"stop": True})

    def forget(self) -> None:
        """Ends the process, with all that it keeps of prompts; the next question starts another."""
        if self._process is not None:
            _end(self._process)

    def _open(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "trsr.models.apart"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, **pipes)  # noqa: S603 - our own
        weakref.finalize(self, _end, self._process)
        opened = self._ask(self.settings.model_dump(mode="json"))
        if "error" in opened:
            raise ModelError(opened["error"])
        return opened

    def _next(self, feed: FeedReader[Prompt]) -> dict[str, Any]:
        entry = feed.take()
        if entry is None:
            return {"ended": feed.ended}
        prompt = text_only(entry[1], self.settings.backend)
        said = [(one.role, one.content) for one in prompt.messages]
        return {"messages": said, "draw": prompt.draw}

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        process: Any = self._process  # its pipes are there, which its type does not say
        line = ""
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was ended
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            raise ModelError(f"the process of {self.settings.name} has ended; it is started again")
        said: dict[str, Any] = json.loads(line)
        return said


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class _Stopped(Exception):  # noqa: N818 - what was asked for
    """The parent has given the texts up."""


Ask = Callable[[dict[str, Any]], dict[str, Any]]


def main() -> None:
    """The other process: opens a model, and writes for its parent until that is gone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    if hasattr(os, "nice"):
        os.nice(_NICE)

    def ask(message: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(message) + "\n")
            answers.flush()
        return heard()

    def heard() -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # nobody is left to answer; a library's threads may be under way
        reply: dict[str, Any] = json.loads(line)
        if "stop" in reply:
            raise _Stopped
        return reply

    try:
        model = open_model(ModelSettings.model_validate(heard()))
    except TrsrError as error:
        ask({"error": str(error)})
        return
    said: dict[str, Any] = {"identity": model.identity, "context_tokens": model.context_tokens}
    while True:
        said = _written(model, Sampling.model_validate(ask(said)["sampling"]), ask)


def _written(model: LanguageModel, sampling: Sampling, ask: Ask) -> dict[str, Any]:
    """Answers one call of `generate`; the last message of it."""

    def feed() -> Iterator[Prompt | None]:
        while not (given := ask({"take": True})).get("ended"):
            said = given.get("messages")
            yield Prompt(tuple(Message(*one) for one in said), given["draw"]) if said else None

    texts: Any = model.generate(feed(), sampling)
    try:
        with contextlib.closing(texts):
            for position, text in texts:
                ask({"position": position, "text": text})
    except _Stopped:
        return {"stopped": True}
    except TrsrError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return {"ended": True}


if __name__ == "__main__":
    main()
