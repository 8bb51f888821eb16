"""The manifest of a snapshot: what is in it, and how to tell that it is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from manager.errors import SnapshotDamaged, SnapshotError
from manager.snapshot.naming import manifest_name

FORMAT = 1
GOOD = "good"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Stored as `{id}.manifest.json` once the object `id` is complete and checked.

    `gtid` was read just before the copy, so everything in it is in the copy; `gtid_after` just after it, so
    nothing else is. `size` and `sha256` are those of the object as it is stored, `unpacked` is the number
    of bytes that a restore writes. `origin` is the origin of the data directory (see `nodefile`), `taken_on`
    the node, whose replication settings the copy holds if it was a replica. `at` is in epoch seconds. `verdict` is what
    the last verification found: empty before there was one, `good`, or else what is wrong; `verified_at` when.
    `encryption` is empty or `age`, then for the public key `recipient`.
    """

    id: str
    path: str
    cluster_id: str
    service_name: str
    server_version: str
    server_uuid: str
    gtid: str
    gtid_after: str
    size: int
    sha256: str
    unpacked: int
    engine: str
    origin: str
    taken_on: str
    from_replica: bool
    at: int
    binlog: str | None
    verdict: str = ""
    verified_at: int = 0
    encryption: str = ""
    recipient: str = ""
    format: int = FORMAT

    @property
    def name(self) -> str:
        """The manifest's own name in the store."""
        return manifest_name(self.id)

    @property
    def bad(self) -> bool:
        """True if a verification has found that it cannot be trusted."""
        return self.verdict not in ("", GOOD)

    def to_json(self) -> bytes:
        """The stored form: readable by people, one field a line."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @staticmethod
    def from_json(data: bytes, name: str) -> Manifest:
        """Read the stored form; SnapshotDamaged, naming `name`, if it is; SnapshotError if it is of a newer format."""
        try:
            content = json.loads(data)
            stored_format = content["format"]
        except (ValueError, KeyError, TypeError):
            raise SnapshotDamaged(f"{name} is no manifest of a snapshot, or is damaged") from None
        if not isinstance(stored_format, int) or stored_format > FORMAT:
            raise SnapshotError(
                f"{name} has format {stored_format}; this version reads up to {FORMAT}: upgrade"
            )
        known = {field.name: field.type for field in fields(Manifest)}
        try:
            manifest = Manifest(**{key: value for key, value in content.items() if key in known})
        except TypeError:
            raise SnapshotDamaged(f"{name} lacks fields of a manifest; the snapshot cannot be used") from None
        for key, expected in known.items():
            if type(getattr(manifest, key)).__name__ not in str(expected).replace("None", "NoneType"):
                raise SnapshotDamaged(f"{name} has a wrong {key}; the snapshot cannot be used")
        return manifest
