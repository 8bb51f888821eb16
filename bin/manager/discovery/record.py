"""The cluster's record, which says who may be primary (SPEC 7), and the last snapshot's entry.

Both are plain values. A record changes only through the methods here, each of which raises `version` by
one; writing it is `Discovery`'s work.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args

from manager.errors import RecordError

FORMAT = 1
HISTORY = 5
FORCED_LEAP = 1000
"""By how many epochs a person's forced decision goes beyond all that is known: a node that is away may have seen
more, and must not take the record for one from the past when it comes back."""
State = Literal["founding", "open"]
Durability = Literal["async", "semisync"]
Origin = Literal["initialised", "adopted", "snapshot"]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Who is primary, at which epoch, and who may acknowledge its commits.

    `primary`, `primaries` (of all epochs, oldest first, each once) and `members` are server_uuids;
    `base` is the GTID set with which the founder began, and what primaries have executed of other servers since:
    transactions of servers that were never a primary of this cluster (`decide.foreign`).
    `at`, of the last change of the primary, is in seconds since 1970; `history` has the last promotions, for people.
    """

    format: int = FORMAT
    id: str
    version: int
    state: State
    durability: Durability
    origin: Origin
    base: str = ""
    epoch: int
    primary: str
    primary_name: str
    primaries: tuple[str, ...]
    members: tuple[str, ...] = ()
    reason: str
    at: int
    history: tuple[str, ...] = ()

    @staticmethod
    def founding(
        *,
        primary: str,
        primary_name: str,
        origin: Origin,
        reason: str,
        base: str = "",
        durability: Durability = "async",
        id: str | None = None,
        at: int | None = None,
    ) -> Record:
        """A new cluster's first record; `id` is made here unless given."""
        return Record(
            id=id or str(uuid.uuid4()),
            version=1,
            state="founding",
            durability=durability,
            origin=origin,
            base=base,
            epoch=1,
            primary=primary,
            primary_name=primary_name,
            primaries=(primary,),
            reason=reason,
            at=_now(at),
        )

    def taken_over(self, *, primary: str, primary_name: str, reason: str, at: int | None = None) -> Record:
        """Another founder in place of one that died while founding: same id, next epoch.

        The first founder was never open, so it is not among the primaries: what it wrote is nobody's data.
        """
        if self.state != "founding":
            raise ValueError("only a cluster that is still being founded can be taken over")
        return self._next(
            epoch=self.epoch + 1,
            primary=primary,
            primary_name=primary_name,
            primaries=(primary,),
            reason=reason,
            at=at,
        )

    def opened(self, *, reason: str = "founded", at: int | None = None) -> Record:
        """The founding is complete."""
        return self._next(state="open", reason=reason, at=at)

    def promoted(
        self, primary: str, primary_name: str, reason: str, *, after: int = 0, at: int | None = None
    ) -> Record:
        """Another primary at the next epoch, beyond `after` too; nobody acknowledges its commits yet."""
        epoch = max(self.epoch, after) + 1
        known = self.primaries if primary in self.primaries else (*self.primaries, primary)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_now(at)))
        line = f"{when} epoch {epoch}: {primary_name} ({reason})"
        return self._next(
            history=(*self.history[1 - HISTORY :], line),
            epoch=epoch,
            primary=primary,
            primary_name=primary_name,
            primaries=known,
            members=(),
            reason=reason,
            at=at,
        )

    def with_members(self, members: tuple[str, ...], durability: Durability | None = None) -> Record:
        """Other members, at the same epoch; also another durability, which needs A to be empty."""
        if durability not in (None, self.durability) and members:
            raise ValueError("the durability changes only while there are no members")
        return replace(
            self, version=self.version + 1, members=members, durability=durability or self.durability
        )

    def beginning_with(self, base: str) -> Record:
        """The same with another `base`."""
        return replace(self, version=self.version + 1, base=base)

    def touched(self, *, primary_name: str | None = None) -> Record:
        """The same content under the next version: whatever was on its way to replace this one is refused.

        `primary_name` is what the primary is called now: a container made anew has another name and the same data.
        """
        return replace(self, version=self.version + 1, primary_name=primary_name or self.primary_name)

    def older_than(self, epoch: int, version: int) -> bool:
        """True if somebody has seen more than this record, which then comes from the past."""
        return (self.epoch, self.version) < (epoch, version)

    def to_json(self) -> str:
        """The text that stands in Consul."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Record:
        """Return the record in `text`; RecordError if it is damaged or of a newer format."""
        fields = _object(text, "the cluster's record in Consul")
        form = fields.get("format")
        if isinstance(form, int) and form > FORMAT:
            raise RecordError(
                f"the cluster's record has format {form}; this version reads up to {FORMAT}, use a newer one"
            )
        try:
            return Record(
                format=_of(fields, "format", int),
                id=_of(fields, "id", str),
                version=_of(fields, "version", int),
                state=_choice(fields, "state", get_args(State)),
                durability=_choice(fields, "durability", get_args(Durability)),
                origin=_choice(fields, "origin", get_args(Origin)),
                base=_of(fields, "base", str),
                epoch=_of(fields, "epoch", int),
                primary=_of(fields, "primary", str),
                primary_name=_of(fields, "primary_name", str),
                primaries=_texts(fields, "primaries"),
                members=_texts(fields, "members"),
                reason=_of(fields, "reason", str),
                at=_seconds(fields),
                history=_texts(fields, "history"),
            )
        except ValueError as error:
            raise RecordError(f"the cluster's record in Consul is damaged: {error}") from None

    def _next(self, *, at: int | None, **changes: Any) -> Record:
        return replace(self, version=self.version + 1, at=_now(at), **changes)


@dataclass(frozen=True, kw_only=True)
class SnapshotRecord:
    """The last complete snapshot: `size` in bytes, `at` in seconds since 1970, `binlog` the current file."""

    id: str
    path: str
    cluster_id: str
    gtid: str
    size: int
    sha256: str
    server_version: str
    at: int
    binlog: str

    def to_json(self) -> str:
        """The text that stands in Consul."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> SnapshotRecord:
        """Return the entry in `text`; RecordError if it is damaged."""
        what = "the last snapshot's entry in Consul"
        fields = _object(text, what)
        if "dt" in fields and "cluster_id" not in fields:
            raise RecordError(
                f"{what} (LAST_BACKUP_KEY) is the original project's, which is not read here: see docs/moving-in.md"
            )
        try:
            return SnapshotRecord(
                size=_of(fields, "size", int),
                at=_seconds(fields),
                **{
                    name: _of(fields, name, str)
                    for name in ("id", "path", "cluster_id", "gtid", "sha256", "server_version", "binlog")
                },
            )
        except ValueError as error:
            raise RecordError(f"{what} is damaged: {error}") from None


def _now(at: int | None) -> int:
    return int(time.time()) if at is None else at


def _object(text: str, what: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RecordError(f"{what} is damaged: it is no JSON object")
    return fields


def _of(fields: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    value = fields.get(name)
    # In Python true is a number too; in the record it would be nonsense.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing or no {kind.__name__}")
    return value


def _seconds(fields: Mapping[str, Any]) -> int:
    value = fields.get("at")
    return int(value) if isinstance(value, float) else _of(fields, "at", int)


def _choice(fields: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> Any:
    value = _of(fields, name, str)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = _of(fields, name, list)
    if not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is no list of texts")
    return tuple(cast(list[str], value))
