"""A recorded run of the real vault, read as linear forms: what its owner and sites really sent, byte by byte.

Shares are rebuilt as the code should have made them: those of sites that took key bits are these bits, the others
follow with ``lagrange_weights`` and ``linear_map`` of the reference kernels; reads and digests follow from the shares.

Then the forms are held against the bytes: with the recorded keys for the unknowns, each form must give exactly the
ciphertext that was sent, and each tag must be right. A payload of an operation that is not known here, a field that an
operation on shares should not have, a key of another length, a byte that a form does not explain: all are
``Unexplained``. So a trace that was read says for certain what the wire carried, and a change of the code that the
model does not follow fails. What stands in headers is public and takes no part in the ranks, but for what nodes say to
each other in a repair (see ``repair_trace``).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305

from shosoin.kernels import ELEMENT_BYTES, lagrange_weights, point_of, reference
from shosoin.kernels.fields import Values
from shosoin.testing.symbolic.forms import Form, array, forms_of, joined
from shosoin.testing.symbolic.protocols import digest
from shosoin.testing.symbolic.recorded import (
    Body,
    Deal,
    Message,
    Parts,
    RecordedKeys,
    Span,
    Unexplained,
    blocks_of,
    elements_of,
)
from shosoin.testing.symbolic.repair_trace import REPAIR_FIELDS, RepairTrace, attempt_of
from shosoin.testing.symbolic.transcript import OWNER, WIRE, Exchange, Link, Transcript, at_link, at_site
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.sealing import MAC_KEY_BYTES, TAG_BYTES

__all__ = ["Message", "Trace", "Unexplained"]

_MAC_ELEMENTS = MAC_KEY_BYTES // ELEMENT_BYTES


_NAMES = {"op", "object", "version", "epoch"}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "write": (_NAMES | {"offset", "size"}, set()),
    "take": (_NAMES | {"offset", "size", "keys"}, set()),
    "seal": (_NAMES | {"size", "x", "k", "masks"}, {"commitment"}),
    "open": (_NAMES | {"commitments"}, {"contribution"}),
    "read": (_NAMES | {"offset", "size"}, {"size", "x"}),
    "digest": (_NAMES | {"r"}, {"size"}),
    **REPAIR_FIELDS,
}
"""What a request and a result may say in clear of a share: nothing that depends on its content."""


class Trace:
    """Reads messages into a transcript; ``run`` has the exchanges that carried payloads, and who saw what.

    Args:
        messages: all requests in the order they left the owner.
        keys: content of every key drawn, by key_ID.
        home: the owner's own site, whose messages stay inside.
        links: whose key it is, by key_ID, of those that nodes drew for each other.

    Raises:
        Unexplained: a message is not what the protocol says.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        keys: Mapping[str, bytes],
        *,
        home: int = 0,
        links: Mapping[str, Link] | None = None,
    ) -> None:
        self.run = Transcript()
        self.empty_exchanges = 0
        """Exchanges of class ``its`` that carried no payload: registers."""
        self._keys = RecordedKeys(self.run, keys, links)
        self._home = home
        self._deals: dict[Body, Deal] = {}
        self._numbers: dict[int, int] = {}
        read = [(message, parse_json(cut(message.request).header)) for message in messages]
        bodies = {_body(op) for _, header in read if header["class"] == "its" for op in header["ops"] if "epoch" in op}
        attempts = {attempt_of(op) for _, header in read if header["class"] == "its" for op in header["ops"]} - {None}
        ours = [(message, header) for message, header in read if _concerns(header, bodies, attempts)]
        nodes = {header["to"]: message.site for message, header in ours}
        self._repairs = RepairTrace(self._keys, self._deals, nodes, _challenges(ours))
        self._name_takes(ours)
        parts = [self._opened(message, header) for message, header in ours]
        for each in parts:
            self._learn(each)
            self._repairs.learn(each)
        for deal in self._deals.values():
            self._rebuild(deal)
        for each in parts:
            self._repairs.explain(each)
            self._explain(each)

    @property
    def deals(self) -> list[Deal]:
        """The bodies that were shared, in order."""
        return list(self._deals.values())

    def _name_takes(self, messages: Iterable[tuple[Message, dict[str, Any]]]) -> None:
        """Give bodies their numbers and keys that became shares their names, before they could pass for pads."""
        for message, header in messages:
            for op in header["ops"]:
                if op["op"] in {"write", "take"}:
                    deal = self._deals.setdefault(_body(op), Deal(len(self._deals)))
                    deal.chunks.setdefault(op["offset"], op["size"])
                if op["op"] == "take":
                    deal.taken.setdefault(op["offset"], {})[message.site] = op["keys"]
                    span = op["offset"] // ELEMENT_BYTES, op["size"] // ELEMENT_BYTES
                    self._keys.drawn((OWNER, message.site), op["keys"], [(("take", deal.name, message.site), *span)])

    def _opened(self, message: Message, header: dict[str, Any]) -> Parts:
        """Undo pads and check tags with the recorded keys."""
        if (header["class"] == "local") != (message.site == self._home):
            raise Unexplained("class local is for the home site alone")
        asked, told = cut(message.request), cut(message.answer) if message.answer else None
        results = parse_json(told.header)["results"] if told else []
        _check_fields(header["ops"], results)
        if header["class"] == "local":
            return Parts(message, header, bytes(asked.sealed), results, bytes(told.sealed) if told else b"", None)
        request, answer = header["auth"]["request"], header["auth"]["answer"]
        key_ids = header["auth"]["keys"]
        content = self._keys.content(key_ids)
        pad = content[2 * MAC_KEY_BYTES :]
        payload = _unsealed(asked.header, asked.sealed, content[:MAC_KEY_BYTES], pad[:request])
        back = b""
        if told:
            mac_key = content[MAC_KEY_BYTES : 2 * MAC_KEY_BYTES]
            back = _unsealed(told.header, told.sealed, mac_key, pad[request : request + answer])
        if len(payload) != request or len(pad) < request + answer:
            raise Unexplained("a payload of another length than its pad")
        macs, pads = self._named(message.site, request, answer, empty=not payload and not back)
        forms = self._keys.drawn((OWNER, message.site), key_ids, [*macs, *pads])
        own = sum(count for _, _, count in macs)
        self.run.reveal(WIRE, forms[:own])
        split = own + request // ELEMENT_BYTES
        return Parts(message, header, payload, results, back, (forms[own:split], forms[split:]))

    def _named(self, site: int, request: int, answer: int, *, empty: bool) -> tuple[list[Span], list[Span]]:
        """Return the names of the MAC keys and pads of an exchange, as ``Transcript.exchange`` gives them."""
        number = -1 - self.empty_exchanges if empty else self._numbers.get(site, 0)
        if empty:
            self.empty_exchanges += 1
        else:
            self._numbers[site] = number + 1
        asked, told = (("exchange", site, number, what) for what in ("request", "answer"))
        macs: list[Span] = [((asked, "mac"), 0, _MAC_ELEMENTS), ((told, "mac"), 0, _MAC_ELEMENTS)]
        return macs, [((asked, "pad"), 0, request // ELEMENT_BYTES), ((told, "pad"), 0, answer // ELEMENT_BYTES)]

    def _learn(self, parts: Parts) -> None:
        """Take what a request says of bodies: sizes, masks, points, and the shares sent."""
        position = 0
        for op in parts.header["ops"]:
            if op["op"] == "write":
                clear = parts.payload[position : position + op["size"]]
                position += op["size"]
                self._deals[_body(op)].got(op["offset"], parts.message.site, clear)
            elif op["op"] == "take":
                content = self._keys.content(op["keys"])[: op["size"]]
                self._deals[_body(op)].got(op["offset"], parts.message.site, content)
            elif op["op"] == "seal":
                deal = self._deals[_body(op)]
                deal.k, deal.masks, deal.sites[parts.message.site] = op["k"], op["masks"], op["x"]
        if position != len(parts.payload):
            raise Unexplained("a request carries bytes that no write accounts for")

    def _rebuild(self, deal: Deal) -> None:
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

    def _body_of(self, deal: Deal, values: Sequence[int]) -> Values:
        """Return a body as unknowns: masks by their content, like key; what comes after them is the secret."""
        masks = [
            self._keys.block(value.to_bytes(ELEMENT_BYTES, "little"), (("mask", deal.name), at))
            for at, value in enumerate(values[: deal.masks])
        ]
        secret = self.run.secrets(("secret", deal.name), len(values) - deal.masks)
        rest = enumerate(values[deal.masks :])
        self._keys.assignment.update({(("secret", deal.name), at): value for at, value in rest})
        return joined([array(masks), secret])

    def _shares(self, deal: Deal, offset: int, secret: Values) -> dict[int, Values]:
        """Return the shares of a chunk: k-1 are key bits, the others follow from them and the secret."""
        known: dict[int, Values] = {}
        start = offset // ELEMENT_BYTES
        for site, key_ids in deal.taken.get(offset, {}).items():
            known[site] = array(
                self._keys.drawn((OWNER, site), key_ids, [(("take", deal.name, site), start, len(secret))])
            )
        # Key bits that no message names (n = k; a site lost before its take went out) make another share as uniform.
        sent = sorted(deal.clear[offset])
        free = [site for site in sent if site != self._home and site not in known]
        for site in free[: deal.k - 1 - len(known)]:
            blocks = blocks_of(deal.clear[offset][site])
            titles = [(("take", deal.name, site), start + at) for at in range(len(blocks))]
            known[site] = array([self._keys.block(*both) for both in zip(blocks, titles, strict=True)])
            self.run.reveal(at_link((OWNER, site), "0"), known[site])
        if len(known) != deal.k - 1:
            raise Unexplained(f"{len(known)} shares of key bits, expected {deal.k - 1}")
        points = [0, *(point_of(deal.sites[site]) for site in known)]
        others = [site for site in deal.sites if site not in known]
        rows = [reference.lagrange_weights(self.run.symbols, points, point_of(deal.sites[site])) for site in others]
        made = reference.linear_map(self.run.symbols, rows, [secret, *known.values()])
        return known | dict(zip(others, made, strict=True))

    def _explain(self, parts: Parts) -> None:
        """Compute what a message carried as forms, hold them against its bytes, and put them on the wire."""
        request = array([form for op in parts.header["ops"] if op["op"] == "write" for form in self._sent(parts, op)])
        answer = array([form for each in self._answers(parts) for form in each])
        for forms, content in ((request, parts.payload), (answer, parts.answer)):
            self._keys.hold(forms_of(forms), content, f"an exchange of site {parts.message.site} and its owner")
        if parts.pads is None or not (len(request) or len(answer)):
            return
        for forms, pad in ((request, parts.pads[0]), (answer, parts.pads[1])):
            self.run.reveal(WIRE, self.run.symbols.add(forms, array(list(pad)[: len(forms)])))
        site = parts.message.site
        number = sum(exchange.site == site for exchange in self.run.exchanges)
        self.run.exchanges.append(Exchange(site, number, tuple(forms_of(request)), tuple(forms_of(answer))))

    def _sent(self, parts: Parts, op: dict[str, Any]) -> Iterable[Form]:
        share = self._deals[_body(op)].shares[parts.message.site]
        return forms_of(share[op["offset"] // ELEMENT_BYTES : (op["offset"] + op["size"]) // ELEMENT_BYTES])

    def _answers(self, parts: Parts) -> Iterator[list[Form]]:
        for op, result in zip(parts.header["ops"], parts.results, strict=False):
            if result.get("size") and op["op"] == "read":
                yield list(self._sent(parts, op))
            elif result.get("size") and op["op"] in {"digest", "repair_digest"}:
                body = _body(op) if op["op"] == "digest" else self._repairs.body(parts.message.site, op)
                share = self._deals[body].shares[parts.message.site]
                yield forms_of(digest(self.run, share, int.from_bytes(bytes.fromhex(op["r"]), "little")))


def _check_fields(ops: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> None:
    for place, op in enumerate(ops):
        asked, told = _FIELDS.get(op["op"], (set(op), None))
        result = set(results[place]) if place < len(results) else set()
        if not set(op) <= asked or (told is not None and not result <= told and result != {"error"}):
            raise Unexplained(f"{op['op']} says more in clear than it should: {sorted((set(op) - asked) | result)}")


def _concerns(header: Mapping[str, Any], bodies: set[Body], attempts: set[str | None]) -> bool:
    """Whether a message is of class ``its``, or local and about a body or a repair of that class."""
    if header["class"] != "local":
        return bool(header["class"] == "its")
    return any(("epoch" in op and _body(op) in bodies) or attempt_of(op) in attempts for op in header["ops"])


def _challenges(messages: Iterable[tuple[Message, dict[str, Any]]]) -> set[str]:
    """Return every challenge that somebody was asked."""
    return {op["r"] for _, header in messages for op in header["ops"] if "r" in op}


def _body(op: Mapping[str, Any]) -> Body:
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


def _combined(deal: Deal, offset: int) -> list[int]:
    """Return a chunk of the body, from k of the shares that were sent; the others are then evidence."""
    clear = dict(list(deal.clear[offset].items())[: deal.k])
    weights = lagrange_weights([point_of(deal.sites[site]) for site in clear])
    columns = [reference.GF2_128.from_bytes(np.frombuffer(content, np.uint8)) for content in clear.values()]
    (whole,) = reference.linear_map(reference.GF2_128, [weights], columns)
    return elements_of(reference.GF2_128.to_bytes(whole).tobytes())
