"""Keys that a worker has drawn ahead of demand, ready as the text of a Key container.

A request for one key costs the owner of the streams nearly as much as one for a hundred. So where a master draws key
after key, a worker asks for some more than it needs, in proportion to what was asked lately, and serves the next
requests from them. They were marked as used before the worker got them: nobody else can have them, and those that are
not used within ``HOLD_S`` are overwritten and lost.

What is cut is the answer of the owner itself: ``{"keys":[ITEM,ITEM,...],REST}`` with items of equal length, because all
keys of one request have one size.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

__all__ = ["HOLD_S", "Draw", "Grant", "KeyStock", "KeyStocks"]

HOLD_S = 1.0
"""How long keys may wait; also how long a key may still come out after its stream was burned at the owner."""
_STOCKS_MAX = 256
_AHEAD_BITS = 64 << 13
"""Bits of keys ahead of demand in one stock."""
_NUMBER_MAX = 1 << 32
_HEAD = b'{"keys":['


@dataclass(frozen=True, slots=True)
class Draw:
    """Keys that a worker wants."""

    master: str
    slave: str
    size_bits: int
    number: int
    """For the SAE that asks."""
    ahead: int = 0
    """More, if the owner thinks so too."""

    def pack(self) -> bytes:
        """Return the payload."""
        return json.dumps([self.master, self.slave, self.size_bits, self.number, self.ahead]).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> Draw:
        """Return what ``pack`` was called on.

        Raises:
            ValueError: there is no such thing to want.
        """
        found = json.loads(payload)
        names, numbers = (found[:2], found[2:]) if isinstance(found, list) else ([], [])
        right = len(numbers) == 3 and all(type(name) is str for name in names)
        if not right or not all(type(number) is int and 0 <= number <= _NUMBER_MAX for number in numbers):
            raise ValueError("no draw")
        draw = cls(*names, *numbers)
        if not draw.number or not draw.size_bits:
            raise ValueError("a draw of nothing")
        return draw


@dataclass(slots=True)
class Grant:
    """One answer of the owner, cut."""

    number: int
    """Of the call that it answers."""
    text: bytearray = field(repr=False)
    until_s: float
    _item_bytes: int = 0
    _next: int = len(_HEAD)
    _end: int = 0
    keys: int = 0
    """How many are left."""
    used: int = 0
    """How many were used since that was told last."""

    def __post_init__(self) -> None:
        if not self.text.startswith(_HEAD + b"{"):
            raise ValueError("not a Key container")
        self._item_bytes = self.text.index(b"}") + 1 - len(_HEAD)
        self._end = self.text.index(b"]")
        self.keys = (self._end + 1 - len(_HEAD)) // (self._item_bytes + 1)
        seams = self.text[len(_HEAD) + self._item_bytes : self._end : self._item_bytes + 1]
        if (self._end + 1 - len(_HEAD)) % (self._item_bytes + 1) or seams != b"," * (self.keys - 1):
            raise ValueError("a Key container whose items differ in length")

    def take(self, number: int) -> bytes:
        """Return a container of ``number`` keys; they are gone here."""
        high = self._next + number * (self._item_bytes + 1) - 1
        items = self.text[self._next : high]
        self.text[self._next : high] = bytes(len(items))
        self._next = high + 1
        self.keys -= number
        self.used += number
        content = b"%s%s%s" % (_HEAD, items, self.text[self._end :])
        items[:] = bytes(len(items))
        return content

    def wipe(self) -> None:
        """Overwrite what is left."""
        self.text[:] = bytes(len(self.text))
        self.keys = 0


class KeyStock:
    """Keys of one size from one master to one slave.

    Whoever finds too few asks for more, and puts what came, while all others wait for their turn.

    Args:
        tell: told the number of a grant, how many of its keys were used, and whether it is over.
    """

    def __init__(self, tell: Callable[[int, int, bool], None]) -> None:
        self._tell = tell
        self._grant: Grant | None = None
        self._is_retired = False
        self._asked_s = 0.0
        self._since_asked = 0

    def take(self, number: int, now_s: float) -> bytes | None:
        """Return a container, ``None`` if there are too few keys."""
        grant = self._grant
        self._since_asked += number
        if grant is None or grant.keys < number or now_s >= grant.until_s:
            self.give_up()
            return None
        content = grant.take(number)
        if not grant.keys:
            self.give_up()
        return content

    def ahead(self, now_s: float) -> int:
        """Return how many more keys to ask for: as many as lately, twice; none if that was long ago."""
        recent = self._since_asked if now_s - self._asked_s < HOLD_S else 0
        self._asked_s, self._since_asked = now_s, 0
        return 2 * recent

    def put(self, grant: Grant) -> None:
        """Have a new grant instead of what is left of the last."""
        self.give_up()
        self._grant = grant
        if self._is_retired:
            self.give_up()

    def report(self, now_s: float) -> None:
        """Tell what was used; give up what is too old."""
        grant = self._grant
        if grant is None:
            return
        if now_s >= grant.until_s:
            self.give_up()
        elif grant.used:
            self._tell(grant.number, grant.used, False)  # not over
            grant.used = 0

    def retire(self) -> None:
        """Overwrite what is left, and whatever is still under way: nobody looks after this stock any more."""
        self._is_retired = True
        self.give_up()

    def give_up(self) -> None:
        """Overwrite what is left."""
        grant, self._grant = self._grant, None
        if grant is not None:
            self._tell(grant.number, grant.used, True)  # over
            grant.wipe()


class KeyStocks:
    """The stocks of a worker: not many, and those that were used last.

    A request is ``draw`` on the stock that ``get`` returns, if any, and ``granted`` where that says to ask the owner.
    """

    def __init__(self, tell: Callable[[int, int, bool], None]) -> None:
        self._tell = tell
        self._stocks: OrderedDict[tuple[str, str, int], KeyStock] = OrderedDict()

    def draw(self, stock: KeyStock | None, wanted: Draw, now_s: float) -> bytes | Draw:
        """Return a container from a stock, or what to ask the owner for."""
        if stock is None:
            return wanted
        content = stock.take(wanted.number, now_s)
        if content is not None:
            return content
        return replace(wanted, ahead=min(stock.ahead(now_s), _AHEAD_BITS // wanted.size_bits))

    def granted(self, stock: KeyStock | None, asked: Draw, grant: Grant) -> bytes:
        """Return the container for whoever asked the owner; what is left of the grant is stock."""
        content = grant.take(asked.number)
        grant.used -= asked.number  # these were counted when they were drawn
        if stock is not None:
            stock.put(grant)
        elif self.get(asked.master, asked.slave, asked.size_bits) is None:
            self.begin(asked.master, asked.slave, asked.size_bits)
        return content

    def get(self, master: str, slave: str, size_bits: int) -> KeyStock | None:
        """Return a stock, if it was asked for before."""
        stock = self._stocks.get((master, slave, size_bits))
        if stock is not None:
            self._stocks.move_to_end((master, slave, size_bits))
        return stock

    def begin(self, master: str, slave: str, size_bits: int) -> KeyStock:
        """Return a new stock for what was drawn with success, so that nobody fills the place with inventions."""
        stock = self._stocks[master, slave, size_bits] = KeyStock(self._tell)
        if len(self._stocks) > _STOCKS_MAX:
            self._stocks.popitem(last=False)[1].retire()
        return stock

    def report(self, now_s: float) -> None:
        """Tell what was used of all."""
        for stock in self._stocks.values():
            stock.report(now_s)

    def give_up(self) -> None:
        """Overwrite everything."""
        for stock in self._stocks.values():
            stock.retire()
        self._stocks.clear()
