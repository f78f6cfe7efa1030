"""What goes in and out of the service: strict and bounded, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StringConstraints,
    WithJsonSchema,
    field_validator,
)

Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
"""An id: any text without control characters."""
Text = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
Moment = Annotated[float, Field(ge=-1e15, le=1e15, description="seconds, or any growing clock")]
_COLUMN = r"^[^\x00-\x1f]+$"
_Column = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_COLUMN)]
_Value = Text | StrictInt | StrictFloat
Filter = Annotated[
    dict[_Column, _Value | Annotated[list[_Value], Field(min_length=1, max_length=100)]],
    Field(min_length=1, max_length=10),
]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is the integer 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_text(value: Any) -> Any:
    """What a file of JSON Lines may hold too: numbers count as their text, null as none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(_whole(value)) if isinstance(value, int | float) else value


Fields = Annotated[
    dict[_Column, Annotated[Text, BeforeValidator(_as_text)]],
    Field(max_length=50, description="column → text; numbers count as text, null as none"),
    # pydantic's own would allow any other column beside those of the pattern
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 50,
            "propertyNames": {"minLength": 1, "maxLength": 100, "pattern": _COLUMN},
            "additionalProperties": {
                "type": ["string", "number", "boolean", "null"],
                "maxLength": 20_000,
                "pattern": r"^[^\x00]*$",
            },
            "description": "column → text; numbers count as text, null as none",
        }
    ),
]


MOST = 1000
"""Items of one ranking."""
Count = Annotated[int, Field(ge=1, le=MOST), BeforeValidator(_whole)]


class Body(BaseModel):
    """What a request may hold."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """What an answer holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(Body):
    """A user met an item; the id makes sending it twice harmless."""

    id: Id
    user: Id
    item: Id
    time: Moment
    weight: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="a rating, which data.min_rating of the next run reads"
    )

    @field_validator("id")
    @classmethod
    def _not_of_a_run(cls, name: str) -> str:
        if name.startswith("run/"):
            raise ValueError("ids that begin with run/ are those of the run's own interactions")
        return name


class EventBatch(Body):
    """Events to be kept, all or none."""

    events: Annotated[list[Event], Field(min_length=1, max_length=1000)]


class AddedEvents(Answer):
    """How many events of a batch were new, and how many known already."""

    new: int
    known: int


class ItemFields(Body):
    """An item's text."""

    fields: Fields


class NamedFields(ItemFields):
    """An item's id and text."""

    id: Id


class InlineItem(Body):
    """An item with its text, known to the service or not."""

    id: Id
    fields: Fields = Field(default_factory=dict)


class ItemBatch(Body):
    """Items to be kept, all or none."""

    items: Annotated[list[NamedFields], Field(min_length=1, max_length=1000)]


ItemChange = Literal["new", "changed", "unchanged"]
"""What keeping an item did."""
_READ = "the fields that stand in prompts; empty where the ranker has no prompts"


class ItemView(Answer):
    """An item."""

    id: str
    fields: dict[str, str]
    read: list[str] = Field(default_factory=list, description=_READ)


class KeptItem(Answer):
    """What became of an item that was sent."""

    id: str
    result: ItemChange
    read: list[str] = Field(description=_READ)
    warnings: list[str] = Field(description="what may be wrong with its fields")


class KeptItems(Answer):
    """What became of a batch of items, in its order."""

    items: list[KeptItem]


class PutItem(KeptItem):
    """What became of one item, and its text."""

    fields: dict[str, str]


ItemRef = Id | InlineItem


class RecommendRequest(Body):
    """For whom to rank what.

    `history` replaces the stored one. Without user and history the answer is for a new user.
    """

    user: Id | None = None
    history: Annotated[list[ItemRef], Field(max_length=2000)] | None = Field(
        None, description="items, oldest first: ids, or objects with text"
    )
    candidates: Annotated[list[ItemRef], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="what to rank; left out: what the first stage proposes"
    )
    n: Count | None = Field(
        None,
        description="how many items the first stage proposes; left out: rank.retrieve_k, or "
        "k where that is more",
    )
    where: Filter | None = Field(
        None, description="rank only items with one of these values: field → value, or values"
    )
    k: Count = Field(10, description="how many items the answer holds")
    exclude: Annotated[list[Id], Field(max_length=2000)] = Field(
        default_factory=list, description="items taken out of the history"
    )
    summary: Text | None = Field(
        None, description="read in place of the stored summary, and not stored"
    )


class ItemTitle(Answer):
    """An item and its first text."""

    item: str
    title: str


class RankedItem(ItemTitle):
    """One place of a ranking."""

    rank: int
    score: float
    p_yes: float | None = Field(
        default=None,
        description="calibrated probability that this candidate is taken, where there is one, in "
        "lists like the run's: those of a list do not add up to 1, and a blend gives another "
        "among other candidates",
    )


class SummaryUsed(Answer):
    """The summary that a ranking read."""

    text: str
    revision: int | None = Field(
        default=None, description="its number; absent where it is not stored"
    )
    covers: int = Field(description="interactions, from the oldest, that it summarizes")


class Timings(Answer):
    """Milliseconds that each part took."""

    queue: float = 0.0
    summary: float = 0.0
    retriever: float = 0.0
    prompt: float = 0.0
    model: float = 0.0
    total: float = 0.0


class Recommendation(Answer):
    """A ranking and what it was made from."""

    user: str | None
    ranker: str
    items: list[RankedItem]
    summary: SummaryUsed | None
    recent: list[ItemTitle] = Field(
        description="the last items, as a prompt shows them; empty where none does"
    )
    prompted: bool = Field(
        default=False, description="whether a model was given a prompt for each candidate"
    )
    items_waiting: int = Field(
        default=0,
        description="new items that are not read yet, and so were not proposed: ask again soon",
    )
    timings: Timings


class BlockView(Answer):
    """Consecutive interactions that are summarized together."""

    start: int = Field(description="place of the first one in the history, from 0")
    end: int = Field(description="place after the last one")
    text: str = Field("", description="the block's own summary, where the strategy writes one")


class ChatMessage(Answer):
    """One turn of a prompt."""

    role: str
    content: str


class WordAdded(Answer):
    """A word of the history that stands in a candidate too."""

    word: str
    added: float = Field(description="what it adds to the ranker's score")


class RankerScore(Answer):
    """What the ranker, or one that it asks, gives a candidate."""

    ranker: str
    score: float = Field(description="its own score, comparable within its ranking alone")
    added: float | None = Field(
        default=None,
        description="of a blend's member: what it adds to the blend's score, which is their sum",
    )
    words: list[WordAdded] = Field(
        default_factory=list, description="of bm25: the words that weighed most"
    )


class ExplainedItem(RankedItem):
    """One place of a ranking, and how it came about."""

    scores: list[RankerScore]


class Explanation(Recommendation):
    """A ranking, the blocks behind it, and the prompt of its first item."""

    items: list[ExplainedItem]  # type: ignore[assignment]
    weights: dict[str, float] = Field(
        description="of a blend: the weight of each member's standardized score"
    )
    blocks: list[BlockView]
    prompt: list[ChatMessage]


class Revision(Answer):
    """One version of a user's summary.

    Attributes:
        covers: Interactions, from the oldest, that it summarizes.
        first_event: Id of the first event that it read anew.
        last_event: Id of the last one.
        sources: Keys of the response cache's entries that made it.
        tokens: Tokens of the prompts that made it.
        seconds: Model time that it took.
        created: Unix time.
    """

    user: str
    number: int
    text: str
    covers: int
    first_event: str = ""
    last_event: str = ""
    sources: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    created: float = 0.0


class RevisionView(Answer):
    """A summary and the interactions that it covers."""

    number: int
    text: str
    covers: int
    first_event: str
    last_event: str
    tokens: int
    seconds: float
    created: float


class UserEvent(ItemTitle):
    """One interaction of a history."""

    id: str
    time: float
    weight: float | None


class UserView(Answer):
    """All that is kept of a user."""

    user: str
    events: list[UserEvent]
    blocks: list[BlockView]
    revisions: list[RevisionView]
    behind: int = Field(description="interactions that no summary covers yet")


class UserRow(Answer):
    """A user in a list."""

    user: str
    n_events: int
    last_time: float


class UserList(Answer):
    """Users by name, and how many there are in all."""

    users: list[UserRow]
    total: int


class Deleted(Answer):
    """What was removed of a user."""

    events: int
    revisions: int
    outputs: int = Field(description="stored model outputs")


Texts = Annotated[list[Text], Field(min_length=1, max_length=1000)]


class ScoreRequest(Body):
    """Pairs to score, as vLLM's `/v1/score` takes them.

    `text_1` describes a user; each of `text_2` is an item's text.
    """

    model: Annotated[str, StringConstraints(max_length=256)] | None = None
    text_1: Text | Texts
    text_2: Text | Texts


class Score(Answer):
    """The score of one pair."""

    index: int
    object: Literal["score"] = "score"
    score: float


class Usage(Answer):
    """Tokens that a request took."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ScoreResponse(Answer):
    """The pairs' scores, in their order."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: Usage


class Ready(Answer):
    """Whether the service can answer."""

    ready: bool
    database: bool
    model: bool


class ErrorDetail(Answer):
    """What was wrong, where, and what to do."""

    code: str
    message: str
    where: str = ""


class Problem(Answer):
    """An error."""

    error: ErrorDetail


def where_of(location: tuple[Any, ...]) -> str:
    """The place of a mistake in a request: `body.events.3.time`."""
    return ".".join(map(str, location))
