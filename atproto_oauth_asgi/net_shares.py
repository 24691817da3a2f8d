"""How many of a pool's connections one server may take."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class Shares:
    """Divides a number of connections between origins, so that a slow one leaves some for others.

    An origin gets another connection while more are free than it has already. Alone it thus gets
    half of them, and each of n that want all they can get has one part in n + 1.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._taken: dict[str, int] = {}
        self._waiting: OrderedDict[str, OrderedDict[asyncio.Future[None], None]] = OrderedDict()

    async def take(self, origin: str) -> None:
        """Wait, in turn, for a connection that the origin may have; it has to be given back."""
        if origin not in self._waiting and self._may(origin):
            self._count(origin)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(origin, OrderedDict())[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(origin, turn)
            else:
                # The turn came in the moment in which nobody wanted it any more.
                self.give(origin)
            raise

    def give(self, origin: str) -> None:
        """Give one connection of the origin back, for whoever waits."""
        self._free += 1
        self._taken[origin] -= 1
        if not self._taken[origin]:
            del self._taken[origin]
        for waiting, turns in list(self._waiting.items()):
            served = False
            while turns and self._may(waiting):
                turn, _ = turns.popitem(last=False)
                if not turn.done():
                    served = True
                    self._count(waiting)
                    turn.set_result(None)
            if not turns:
                del self._waiting[waiting]
            elif served:
                # Who has waited for longest is the next.
                self._waiting.move_to_end(waiting)

    def _forget(self, origin: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(origin)
        if turns is not None:
            turns.pop(turn, None)
            if not turns:
                del self._waiting[origin]

    def _may(self, origin: str) -> bool:
        return self._taken.get(origin, 0) < self._free

    def _count(self, origin: str) -> None:
        self._free -= 1
        self._taken[origin] = self._taken.get(origin, 0) + 1
