"""The HTTP door: routes, errors and the page, over a `Service`."""

from __future__ import annotations

import asyncio
import mimetypes
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from trsr.errors import DataError, ModelError, PromptError, TrsrError
from trsr.serve import schemas
from trsr.serve.auth import Client, Keys, Scope
from trsr.serve.batching import TooLateError
from trsr.serve.gate import CONTENT_TYPE, Gate, Metrics, log_error, problem
from trsr.serve.service import OverloadedError, Service, UnknownNameError
from trsr.serve.settings import ServeSettings
from trsr.serve.store import EventConflictError, StoreUnavailableError
from trsr.storage import files

T = TypeVar("T")
_PAGE = Path(__file__).parent / "page"
_SAID = {
    400: "the request cannot be read",
    401: "an API key is needed",
    403: "the key, or the page that asks, may not do this",
    404: "there is no such user or item",
    408: "the body came too slowly",
    409: "an event's id is known with another content",
    413: "the body is too large",
    415: "the body is no JSON",
    421: "asked by another host's name",
    422: "the request does not fit the schema, or cannot be answered",
    429: "too many requests; Retry-After says when to come again",
    503: "the database or the model is gone; try again",
}
_ALWAYS = (400, 401, 403, 421, 422, 429, 503)
_BODY = (408, 413, 415)


def _said(*more: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for OpenAPI."""
    return {
        status: {"model": schemas.Problem, "description": _SAID[status]}
        for status in sorted({*_ALWAYS, *more})
    }


def make_app(service: Service, settings: ServeSettings) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="trsr",
        version=version("trsr"),
        description="Recommendations from interaction logs and item text, explained.",
        docs_url=None,  # its pages are fetched from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    running = _Running(settings.queue, service.threads)
    metrics = Metrics(lambda: {**service.load(), "requests_running": running.count})
    app.add_middleware(Gate, settings=settings, keys=Keys(service.store), metrics=metrics)
    _handle_errors(app)
    _state_routes(app, service, metrics)
    _item_routes(app, service)
    _model_routes(app, service, running)
    _health_routes(app, service, metrics)
    _page_routes(app, min(schemas.MOST, service.proposed(1)))
    return app


class _Running:
    """Runs what asks a model in threads, so many at once; more wait, or are sent away."""

    def __init__(self, most: int, threads: int) -> None:
        self._most = most
        self._threads = min(most, threads)
        self._limiter: CapacityLimiter | None = None
        self.count = 0

    async def __call__(self, request: Request, work: Callable[[threading.Event], T]) -> T:
        if self.count >= self._most:
            raise OverloadedError(f"{self.count} requests wait already; come again")
        self._limiter = self._limiter or CapacityLimiter(self._threads)
        cancelled = threading.Event()
        watcher = asyncio.create_task(_watch(request, cancelled))
        self.count += 1
        try:
            return await to_thread.run_sync(work, cancelled, limiter=self._limiter)
        finally:
            self.count -= 1
            cancelled.set()
            watcher.cancel()


async def _watch(request: Request, cancelled: threading.Event) -> None:
    """Sets the event when the client has gone: its request need cost no more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancelled.set()


_bearer = HTTPBearer(auto_error=False, description="An API key, from `trsr serve --add-key`.")


def needs(scope: Scope) -> Any:
    """The route is for clients with this scope."""

    async def check(request: Request, _: Annotated[Any, Security(_bearer)]) -> None:
        _permit(request, scope)

    return Security(check)


def _permit(request: Request, scope: Scope) -> None:
    client: Client = request.state.client
    if client.may(scope):
        return
    if not client.scopes:
        headers = {"WWW-Authenticate": "Bearer"}
        raise HTTPException(401, "give an API key: Authorization: Bearer trsr_…", headers)
    raise HTTPException(403, f"this key lacks the scope {scope}")


READ, WRITE, ADMIN = needs("read"), needs("write"), needs("admin")


class _EventsRoute(APIRoute):
    """Described by FastAPI, and read past it: its way to the body costs twice what all else does.

    JSON is parsed and checked in one go, straight from the bytes.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            _permit(request, "write")
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                raise RequestValidationError([{"type": "model_attributes_type", "loc": ("body",)}])
            try:
                batch = schemas.EventBatch.model_validate_json(await request.body())
            except ValidationError as error:
                found = error.errors(include_url=False, include_context=False)
                raise RequestValidationError(
                    [{**one, "loc": ("body", *one["loc"])} for one in found]
                ) from None
            added: schemas.AddedEvents = await self.endpoint(batch)
            return Response(added.model_dump_json(), media_type="application/json")

        return handle


def _state_routes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    async def add_events(batch: schemas.EventBatch) -> schemas.AddedEvents:
        """Keep events, all or none; durable when answered. Sending an event again is harmless."""
        submit = service.submit_events
        if service.knows(batch.events):
            kept = submit(batch.events)
        else:  # in a thread, as an unknown item is looked for in the database
            kept = await to_thread.run_sync(submit, batch.events)
        added = await asyncio.wrap_future(kept)
        metrics.events.inc(added.new)
        return added

    app.router.add_api_route(
        "/v1/events",
        add_events,
        methods=["POST"],
        dependencies=[WRITE],
        responses=_said(404, 409, *_BODY),
        route_class_override=_EventsRoute,
    )

    @app.get("/v1/users", dependencies=[READ], responses=_said())
    async def list_users(
        prefix: Annotated[str, Query(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    ) -> schemas.UserList:
        """List users whose id begins so."""

        def work() -> schemas.UserList:
            found = service.store.users(prefix, limit)
            return schemas.UserList(users=found, total=service.store.count_users())

        return await to_thread.run_sync(work)

    @app.get("/v1/users/{user_id:path}", dependencies=[READ], responses=_said(404))
    async def get_user(user_id: schemas.Id) -> schemas.UserView:
        """Show a user's history, its blocks, and every summary."""
        return await to_thread.run_sync(service.user, user_id)

    @app.delete("/v1/users/{user_id:path}", dependencies=[ADMIN], responses=_said(404))
    async def delete_user(user_id: schemas.Id) -> schemas.Deleted:
        """Remove a user: events, summaries, and the model outputs behind them."""
        return await to_thread.run_sync(service.delete_user, user_id)


def _item_routes(app: FastAPI, service: Service) -> None:
    @app.put(
        "/v1/items/{item_id:path}",
        dependencies=[WRITE],
        responses=_said(*_BODY) | {201: {"model": schemas.PutItem, "description": "a new item"}},
    )
    async def put_item(
        item_id: schemas.Id, item: schemas.ItemFields, response: Response
    ) -> schemas.PutItem:
        """Bring an item in, or change its text; it can be recommended at once."""
        kept = await to_thread.run_sync(service.put_item, item_id, item.fields)
        if kept.result == "new":
            response.status_code = HTTPStatus.CREATED
        return kept

    @app.post("/v1/items", dependencies=[WRITE], responses=_said(*_BODY))
    async def put_items(batch: schemas.ItemBatch) -> schemas.KeptItems:
        """Bring items in, or change their texts, all or none; durable when answered.

        They can be recommended as they are read, in seconds.
        """
        kept = await to_thread.run_sync(service.put_items, batch.items)
        return schemas.KeptItems(items=kept)

    @app.get("/v1/items/{item_id:path}", dependencies=[READ], responses=_said(404))
    async def get_item(item_id: schemas.Id) -> schemas.ItemView:
        """Show an item's text."""
        return await to_thread.run_sync(service.item, item_id)


def _model_routes(app: FastAPI, service: Service, running: _Running) -> None:
    @app.post("/v1/recommend", dependencies=[READ], responses=_said(404, *_BODY))
    async def recommend(
        asked: schemas.RecommendRequest, request: Request
    ) -> schemas.Recommendation:
        """Rank items for a user or a history."""
        return await running(request, lambda cancelled: service.recommend(asked, cancelled))

    @app.post("/v1/explain", dependencies=[READ], responses=_said(404, *_BODY))
    async def explain(asked: schemas.RecommendRequest, request: Request) -> schemas.Explanation:
        """Rank, and show blocks, summary and prompt behind the ranking."""
        return await running(request, lambda cancelled: service.explain(asked, cancelled))

    @app.post("/v1/score", dependencies=[READ], responses=_said(404, *_BODY))
    async def score(asked: schemas.ScoreRequest, request: Request) -> schemas.ScoreResponse:
        """Score item texts for a described user, in the shape of vLLM's endpoint."""
        return await running(request, lambda cancelled: service.score(asked, cancelled))


def _health_routes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/healthz", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def healthz() -> Response:
        """Whether the process answers."""
        return Response("ok", media_type="text/plain")

    @app.get("/readyz", responses={503: {"model": schemas.Ready, "description": "not ready"}})
    async def readyz(response: Response) -> schemas.Ready:
        """Whether database and model answer."""
        database = await to_thread.run_sync(service.store.ready)
        model = await to_thread.run_sync(service.ready)  # may open the model
        if not (database and model):
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return schemas.Ready(ready=database and model, database=database, model=model)

    @app.get("/metrics", dependencies=[READ], responses=_said(), response_class=Response)
    async def numbers() -> Response:
        """Show numbers for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _page_routes(app: FastAPI, candidates: int) -> None:
    held = {path.name: files.read_bytes(path) for path in files.listed(_PAGE)}
    usual = b'data-candidates="%d"' % candidates
    held["index.html"] = held["index.html"].replace(b'data-candidates=""', usual)

    async def page(name: str = "index.html") -> Response:
        if name not in held:
            raise HTTPException(404, "there is no such page")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(held[name], media_type=kind)

    app.get("/", include_in_schema=False)(page)
    app.get("/page/{name}", include_in_schema=False)(page)


_KINDS: tuple[tuple[type[TrsrError], int, str], ...] = (
    (UnknownNameError, 404, "not_found"),
    (EventConflictError, 409, "conflict"),
    (OverloadedError, 429, "too_many_requests"),
    (StoreUnavailableError, 503, "unavailable"),
    (TooLateError, 503, "too_late"),
    (ModelError, 503, "model_unavailable"),
    (PromptError, 422, "too_long"),
    (DataError, 422, "cannot_be_answered"),
)


def _handle_errors(app: FastAPI) -> None:
    def register(kind: Any) -> Callable[[Callable[[Request, Any], Awaitable[Response]]], None]:
        return lambda handler: app.add_exception_handler(kind, handler)

    @register(TrsrError)
    async def ours(_: Request, error: TrsrError) -> Response:
        status, code = next(
            ((status, code) for kind, status, code in _KINDS if isinstance(error, kind)),
            (503, "unavailable"),
        )
        headers = {}
        if status in (429, 503):
            headers["Retry-After"] = str(max(1, round(getattr(error, "retry_after", 2))))
        # of the service's own state nothing is said, but in its log
        public = status < 500 or isinstance(error, TooLateError)
        text = str(error) if public else _SAID[503]
        if status >= 500:
            log_error(error)
        return _problem(status, code, text, headers=headers)

    @register(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _problem(400, "bad_json", "the body is no JSON", "body")
        return _problem(422, "invalid", _what_is_invalid(first), schemas.where_of(first["loc"]))

    @register(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        return _problem(
            error.status_code,
            phrase.lower().replace(" ", "_"),
            str(error.detail),
            headers=headers,
        )


def _what_is_invalid(error: Mapping[str, Any]) -> str:
    """The message of pydantic, with advice where newcomers need it."""
    if error["type"] == "model_attributes_type":
        return "the body is no JSON object; is the header Content-Type: application/json there?"
    advice = "; a time is a number: seconds since 1970, UTC" if error["loc"][-1] == "time" else ""
    return f"{error['msg']}{advice}"


def _methods(request: Request) -> list[str]:
    """What the path can be asked for; Starlette names the methods of its first route only."""
    fitting = (route for route in request.app.routes if route.matches(request.scope)[0].value)
    return sorted({method for route in fitting for method in route.methods})


def _problem(
    status: int, code: str, message: str, where: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(problem(code, message, where), status, headers)
