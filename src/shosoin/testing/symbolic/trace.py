"""A recorded run of the real vault, read as linear forms: what its owner and sites really sent, byte by byte.

Every 16 bytes of key or mask are an unknown, known by their content, so that what is used twice is one in two places.
Shares are rebuilt as the code should have made them: those of sites that took key bits are these bits, the others
follow with ``lagrange_weights`` and ``linear_map`` of the reference kernels; reads and digests follow from the shares.

Then the forms are held against the bytes: with the recorded keys for the unknowns, each form must give exactly the
ciphertext that was sent, and each tag must be right. A payload of an operation that is not known here, a field that an
operation on shares should not have, a key of another length, a byte that a form does not explain: all are
``Unexplained``. So a trace that was read says for certain what the wire carried, and a change of the code that the
model does not follow fails. What stands in headers is public and takes no part in the ranks.
"""

from __future__ import annotations

import hmac
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305

from shosoin.kernels import ELEMENT_BYTES, lagrange_weights, point_of, reference
from shosoin.kernels.fields import Values
from shosoin.testing.symbolic.forms import Form, array, forms_of, joined
from shosoin.testing.symbolic.protocols import digest
from shosoin.testing.symbolic.transcript import OWNER, WIRE, Exchange, Transcript, at_link, at_site
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.sealing import MAC_KEY_BYTES, TAG_BYTES

__all__ = ["Message", "Trace", "Unexplained"]

_Body = tuple[str, str, int]
_Span = tuple[Hashable, int, int]
"""Name, first index and number of some unknowns."""
_MAC_ELEMENTS = MAC_KEY_BYTES // ELEMENT_BYTES


_NAMES = {"op", "object", "version", "epoch"}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "write": (_NAMES | {"offset", "size"}, set()),
    "take": (_NAMES | {"offset", "size", "keys"}, set()),
    "seal": (_NAMES | {"size", "x", "k", "masks"}, {"contribution"}),
    "read": (_NAMES | {"offset", "size"}, {"size", "x"}),
    "digest": (_NAMES | {"r"}, {"size"}),
}
"""What a request and a result may say in clear of a share: nothing that depends on its content."""


class Unexplained(ValueError):
    """The run did something that its reading as linear forms does not explain."""


@dataclass(slots=True)
class Message:
    """A request to a site, by its place among the sites, and the answer if the site gave one."""

    site: int
    request: bytes
    answer: bytes | None = None


@dataclass(slots=True)
class _Deal:
    """One body as it was shared: where its chunks start, who took key bits, what everybody was sent."""

    name: int
    k: int = 0
    masks: int = 0
    sites: dict[int, int] = field(default_factory=dict)
    """Index of the evaluation point by site, as the seals say."""
    chunks: dict[int, int] = field(default_factory=dict)
    taken: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    clear: dict[int, dict[int, bytes]] = field(default_factory=dict)
    shares: dict[int, Values] = field(default_factory=dict)

    def got(self, offset: int, site: int, clear: bytes) -> None:
        """Note what a site was sent; one that falls out before its seal stands where its place among the sites says."""
        self.clear.setdefault(offset, {})[site] = clear
        self.sites.setdefault(site, site + 1)


@dataclass(slots=True)
class _Parts:
    """A message taken apart."""

    message: Message
    header: dict[str, Any]
    payload: bytes
    results: list[dict[str, Any]]
    answer: bytes
    pads: tuple[Sequence[Form], Sequence[Form]] | None


class Trace:
    """Reads messages into a transcript; ``run`` has the exchanges that carried payloads, and who saw what.

    Args:
        messages: all requests in the order they left the owner.
        keys: content of every key drawn, by key_ID.
        home: the owner's own site, whose messages stay inside.

    Raises:
        Unexplained: a message is not what the protocol says.
    """

    def __init__(self, messages: Sequence[Message], keys: Mapping[str, bytes], *, home: int = 0) -> None:
        self.run = Transcript()
        self.assignment: dict[Hashable, int] = {}
        self.empty_exchanges = 0
        """Exchanges of class ``its`` that carried no payload: registers."""
        self._keys = keys
        self._home = home
        self._blocks: dict[bytes, Form] = {}
        self._deals: dict[_Body, _Deal] = {}
        self._numbers: dict[int, int] = {}
        read = [(message, parse_json(cut(message.request).header)) for message in messages]
        bodies = {_body(op) for _, header in read if header["class"] == "its" for op in header["ops"] if "epoch" in op}
        ours = [(message, header) for message, header in read if _concerns(header, bodies)]
        self._name_takes(ours)
        parts = [self._opened(message, header) for message, header in ours]
        for each in parts:
            self._learn(each)
        for deal in self._deals.values():
            self._rebuild(deal)
        for each in parts:
            self._explain(each)

    @property
    def deals(self) -> list[_Deal]:
        """The bodies that were shared, in order."""
        return list(self._deals.values())

    def _name_takes(self, messages: Iterable[tuple[Message, dict[str, Any]]]) -> None:
        """Give bodies their numbers and keys that became shares their names, before they could pass for pads."""
        for message, header in messages:
            for op in header["ops"]:
                if op["op"] in {"write", "take"}:
                    deal = self._deals.setdefault(_body(op), _Deal(len(self._deals)))
                    deal.chunks.setdefault(op["offset"], op["size"])
                if op["op"] == "take":
                    deal.taken.setdefault(op["offset"], {})[message.site] = op["keys"]
                    span = op["offset"] // ELEMENT_BYTES, op["size"] // ELEMENT_BYTES
                    self._drawn(message.site, op["keys"], [(("take", deal.name, message.site), *span)])

    def _drawn(self, site: int, key_ids: Sequence[str], names: Sequence[_Span]) -> list[Form]:
        """Return the unknowns of the first elements of some keys, as many as are named; new ones get the names."""
        titles = [(name, start + at) for name, start, count in names for at in range(count)]
        content = b"".join(self._keys[key_id] for key_id in key_ids)
        if len(content) < ELEMENT_BYTES * len(titles):
            raise Unexplained(f"keys of {len(content)} bytes, expected {ELEMENT_BYTES * len(titles)}")
        blocks = _blocks(content[: ELEMENT_BYTES * len(titles)])
        forms = [self._block(block, title) for block, title in zip(blocks, titles, strict=True)]
        self.run.reveal(at_link((OWNER, site), "0"), forms)
        return forms

    def _block(self, block: bytes, title: tuple[Hashable, int]) -> Form:
        """Return the unknown of 16 bytes of key: equal bytes are one unknown, whatever key_ID they came under."""
        if block not in self._blocks:
            self._blocks[block] = self.run.symbols.unknown(title)
            self.assignment[title] = int.from_bytes(block, "little")
        return self._blocks[block]

    def _opened(self, message: Message, header: dict[str, Any]) -> _Parts:
        """Undo pads and check tags with the recorded keys."""
        if (header["class"] == "local") != (message.site == self._home):
            raise Unexplained("class local is for the home site alone")
        asked, told = cut(message.request), cut(message.answer) if message.answer else None
        results = parse_json(told.header)["results"] if told else []
        _check_fields(header["ops"], results)
        if header["class"] == "local":
            return _Parts(message, header, bytes(asked.sealed), results, bytes(told.sealed) if told else b"", None)
        request, answer = header["auth"]["request"], header["auth"]["answer"]
        key_ids = header["auth"]["keys"]
        content = b"".join(self._keys[key_id] for key_id in key_ids)
        pad = content[2 * MAC_KEY_BYTES :]
        payload = _unsealed(asked.header, asked.sealed, content[:MAC_KEY_BYTES], pad[:request])
        back = b""
        if told:
            mac_key = content[MAC_KEY_BYTES : 2 * MAC_KEY_BYTES]
            back = _unsealed(told.header, told.sealed, mac_key, pad[request : request + answer])
        if len(payload) != request or len(pad) < request + answer:
            raise Unexplained("a payload of another length than its pad")
        macs, pads = self._named(message.site, request, answer, empty=not payload and not back)
        forms = self._drawn(message.site, key_ids, [*macs, *pads])
        own = sum(count for _, _, count in macs)
        self.run.reveal(WIRE, forms[:own])
        split = own + request // ELEMENT_BYTES
        return _Parts(message, header, payload, results, back, (forms[own:split], forms[split:]))

    def _named(self, site: int, request: int, answer: int, *, empty: bool) -> tuple[list[_Span], list[_Span]]:
        """Return the names of the MAC keys and pads of an exchange, as ``Transcript.exchange`` gives them."""
        number = -1 - self.empty_exchanges if empty else self._numbers.get(site, 0)
        if empty:
            self.empty_exchanges += 1
        else:
            self._numbers[site] = number + 1
        asked, told = (("exchange", site, number, what) for what in ("request", "answer"))
        macs: list[_Span] = [((asked, "mac"), 0, _MAC_ELEMENTS), ((told, "mac"), 0, _MAC_ELEMENTS)]
        return macs, [((asked, "pad"), 0, request // ELEMENT_BYTES), ((told, "pad"), 0, answer // ELEMENT_BYTES)]

    def _learn(self, parts: _Parts) -> None:
        """Take what a request says of bodies: sizes, masks, points, and the shares sent."""
        position = 0
        for op in parts.header["ops"]:
            if op["op"] == "write":
                clear = parts.payload[position : position + op["size"]]
                position += op["size"]
                self._deals[_body(op)].got(op["offset"], parts.message.site, clear)
            elif op["op"] == "take":
                content = b"".join(self._keys[key_id] for key_id in op["keys"])[: op["size"]]
                self._deals[_body(op)].got(op["offset"], parts.message.site, content)
            elif op["op"] == "seal":
                deal = self._deals[_body(op)]
                deal.k, deal.masks, deal.sites[parts.message.site] = op["k"], op["masks"], op["x"]
        if position != len(parts.payload):
            raise Unexplained("a request carries bytes that no write accounts for")

    def _rebuild(self, deal: _Deal) -> None:
        """Compute the shares of a body as forms."""
        offsets = sorted(deal.chunks)
        if offsets != [sum(deal.chunks[at] for at in offsets[:index]) for index in range(len(offsets))]:
            raise Unexplained("chunks that leave gaps")
        body = self._body_of(deal, [value for offset in offsets for value in _combined(deal, offset)])
        pieces: dict[int, list[Values]] = {site: [] for site in deal.sites}
        for offset in offsets:
            chunk = slice(offset // ELEMENT_BYTES, (offset + deal.chunks[offset]) // ELEMENT_BYTES)
            for site, share in self._shares(deal, offset, body[chunk]).items():
                pieces[site].append(share)
        deal.shares = {site: joined(parts) for site, parts in pieces.items()}
        if self._home in deal.shares:
            self.run.reveal(at_site(self._home, "0"), deal.shares[self._home])

    def _body_of(self, deal: _Deal, values: Sequence[int]) -> Values:
        """Return a body as unknowns: masks by their content, like key; what comes after them is the secret."""
        masks = [
            self._block(value.to_bytes(ELEMENT_BYTES, "little"), (("mask", deal.name), at))
            for at, value in enumerate(values[: deal.masks])
        ]
        secret = self.run.secrets(("secret", deal.name), len(values) - deal.masks)
        self.assignment.update({(("secret", deal.name), at): value for at, value in enumerate(values[deal.masks :])})
        return joined([array(masks), secret])

    def _shares(self, deal: _Deal, offset: int, secret: Values) -> dict[int, Values]:
        """Return the shares of a chunk: k-1 are key bits, the others follow from them and the secret."""
        known: dict[int, Values] = {}
        start = offset // ELEMENT_BYTES
        for site, key_ids in deal.taken.get(offset, {}).items():
            known[site] = array(self._drawn(site, key_ids, [(("take", deal.name, site), start, len(secret))]))
        # Key bits that no message names (n = k; a site lost before its take went out) make another share as uniform.
        sent = sorted(deal.clear[offset])
        free = [site for site in sent if site != self._home and site not in known]
        for site in free[: deal.k - 1 - len(known)]:
            blocks = _blocks(deal.clear[offset][site])
            titles = [(("take", deal.name, site), start + at) for at in range(len(blocks))]
            known[site] = array([self._block(*both) for both in zip(blocks, titles, strict=True)])
            self.run.reveal(at_link((OWNER, site), "0"), known[site])
        if len(known) != deal.k - 1:
            raise Unexplained(f"{len(known)} shares of key bits, expected {deal.k - 1}")
        points = [0, *(point_of(deal.sites[site]) for site in known)]
        others = [site for site in deal.sites if site not in known]
        rows = [reference.lagrange_weights(self.run.symbols, points, point_of(deal.sites[site])) for site in others]
        made = reference.linear_map(self.run.symbols, rows, [secret, *known.values()])
        return known | dict(zip(others, made, strict=True))

    def _explain(self, parts: _Parts) -> None:
        """Compute what a message carried as forms, hold them against its bytes, and put them on the wire."""
        request = array([form for op in parts.header["ops"] if op["op"] == "write" for form in self._sent(parts, op)])
        answer = array([form for each in self._answers(parts) for form in each])
        for forms, content in ((request, parts.payload), (answer, parts.answer)):
            values = [self.run.symbols.at(form, self.assignment) for form in forms_of(forms)]
            if values != _elements(content):
                raise Unexplained(f"site {parts.message.site} and its owner exchanged bytes that the forms do not give")
        if parts.pads is None or not (len(request) or len(answer)):
            return
        for forms, pad in ((request, parts.pads[0]), (answer, parts.pads[1])):
            self.run.reveal(WIRE, self.run.symbols.add(forms, array(list(pad)[: len(forms)])))
        site = parts.message.site
        number = sum(exchange.site == site for exchange in self.run.exchanges)
        self.run.exchanges.append(Exchange(site, number, tuple(forms_of(request)), tuple(forms_of(answer))))

    def _sent(self, parts: _Parts, op: dict[str, Any]) -> Iterable[Form]:
        share = self._deals[_body(op)].shares[parts.message.site]
        return forms_of(share[op["offset"] // ELEMENT_BYTES : (op["offset"] + op["size"]) // ELEMENT_BYTES])

    def _answers(self, parts: _Parts) -> Iterator[list[Form]]:
        for op, result in zip(parts.header["ops"], parts.results, strict=False):
            if result.get("size") and op["op"] == "read":
                yield list(self._sent(parts, op))
            elif result.get("size") and op["op"] == "digest":
                share = self._deals[_body(op)].shares[parts.message.site]
                yield forms_of(digest(self.run, share, int.from_bytes(bytes.fromhex(op["r"]), "little")))


def _check_fields(ops: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> None:
    for place, op in enumerate(ops):
        asked, told = _FIELDS.get(op["op"], (set(op), None))
        result = set(results[place]) if place < len(results) else set()
        if not set(op) <= asked or (told is not None and not result <= told and result != {"error"}):
            raise Unexplained(f"{op['op']} says more in clear than it should: {sorted((set(op) - asked) | result)}")


def _concerns(header: Mapping[str, Any], bodies: set[_Body]) -> bool:
    """Whether a message is of class ``its``, or local and about a body of that class."""
    local = header["class"] == "local" and any("epoch" in op and _body(op) in bodies for op in header["ops"])
    return header["class"] == "its" or local


def _body(op: Mapping[str, Any]) -> _Body:
    return op["object"], op["version"], op["epoch"]


def _unsealed(header: memoryview, sealed: memoryview, mac_key: bytes, pad: bytes) -> bytes:
    payload, tag = bytes(sealed[:-TAG_BYTES]), bytes(sealed[-TAG_BYTES:])
    mac = Poly1305(mac_key)
    mac.update(len(header).to_bytes(8, "little") + bytes(header) + payload)
    if not hmac.compare_digest(mac.finalize(), tag):
        raise Unexplained("a tag that is not of its message under its key")
    if len(payload) > len(pad):
        raise Unexplained("a payload longer than its pad")
    return bytes(a ^ b for a, b in zip(payload, pad, strict=False))


def _combined(deal: _Deal, offset: int) -> list[int]:
    """Return a chunk of the body, from k of the shares that were sent; the others are then evidence."""
    clear = dict(list(deal.clear[offset].items())[: deal.k])
    weights = lagrange_weights([point_of(deal.sites[site]) for site in clear])
    columns = [reference.GF2_128.from_bytes(np.frombuffer(content, np.uint8)) for content in clear.values()]
    (whole,) = reference.linear_map(reference.GF2_128, [weights], columns)
    return _elements(reference.GF2_128.to_bytes(whole).tobytes())


def _blocks(content: bytes) -> list[bytes]:
    if len(content) % ELEMENT_BYTES:
        raise Unexplained(f"{len(content)} bytes are not whole elements")
    return [content[at : at + ELEMENT_BYTES] for at in range(0, len(content), ELEMENT_BYTES)]


def _elements(content: bytes) -> list[int]:
    return [int.from_bytes(block, "little") for block in _blocks(content)]
