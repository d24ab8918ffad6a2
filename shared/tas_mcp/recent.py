"""A bounded memory of what was used lately. Pure."""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, made by ``make`` when first asked for. At least the ``size`` keys used last are kept, at most twice as many:
    the younger half fills up, then becomes the older, and what the older held and nobody asked for is gone."""

    def __init__(self, make: Callable[[K], V], size: int) -> None:
        self._make = make
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """What is kept under the key."""
        found = self._young.get(key)
        if found is None and (found := self._old.pop(key, None)) is not None:
            self._keep(key, found)
        return found

    def find(self, key: K) -> V:
        """As ``get``, or made now. The usual case is told here, without another call."""
        found = self._young.get(key)
        if found is None and (found := self.get(key)) is None:
            found = self._make(key)
            self._keep(key, found)
        return found

    def _keep(self, key: K, value: V) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = value
