"""The bucket ``tas_status``: one status read or changed at a time."""

from collections.abc import Callable

from tas_mcp import status, subjects
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.documents import everything, newest, write
from tas_mcp.errors import Rejected
from tas_mcp.status import NONE, Status

BUCKET = subjects.STATUS_BUCKET
TRIES = 5

Known = tuple[int, Status]
"""A status and its revision (0: never written)."""


class StatusBucket:
    """Reads and writes. Every method raises ``Unavailable`` or ``BrokerError`` while the bucket is away."""

    def __init__(self, jetstream: JetStream, publisher: Publisher) -> None:
        self._jetstream = jetstream
        self._publisher = publisher

    async def read(self, target_id: str) -> Known:
        found = await newest(self._jetstream, BUCKET, target_id)
        return (found.revision, status.decode(found.value)) if found else (0, NONE)

    async def all(self) -> dict[str, Known]:
        """Every status, by target."""
        found = await everything(self._jetstream, BUCKET)
        return {each.key: (each.revision, status.decode(each.value)) for each in found}

    async def gone(self) -> set[str]:
        """The targets that are gone."""
        return {target_id for target_id, (_, found) in (await self.all()).items() if found.gone}

    async def erase(self, target_id: str) -> None:
        """Forget it: the target was removed."""
        if (await self.read(target_id))[0]:
            key = subjects.bucket_key(BUCKET, target_id)  # over whatever is there
            await self._publisher.store(key, b"", headers={"KV-Operation": "DEL"})

    async def change(self, target_id: str, known: Known, change: Callable[[Status], Status | None]) -> tuple[Known, bool]:
        """Change a status. ``change`` is asked again when another was faster, and may answer None: leave it. The status as it is
        then, and whether it was changed."""
        for _ in range(TRIES):
            revision, old = known
            new = change(old)
            if new is None:
                return known, False
            try:
                revision = await write(self._publisher, BUCKET, target_id, status.encode(new), revision)
            except Rejected as error:
                if error.code != "STALE_REVISION":
                    raise
                known = await self.read(target_id)
            else:
                return (revision, new), True
        return known, False
