"""One KME's side of a pair: the handshake, and the two streams that run between the pair's KMEs.

The class is pure: messages and events go in, generators of effects come out (``shosoin.keys.store``). The driver must
carry out the steps of one pair one after the other; ``allocate``, ``read`` and ``fetch`` may be called in between.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from shosoin.base import Entropy
from shosoin.base.ports import Event
from shosoin.keys.blocks import dump_record, load_record
from shosoin.keys.cache import BlockCache
from shosoin.keys.claims import implausible_claim
from shosoin.keys.errors import PairProtocolError, StreamNotReady, StreamRefused
from shosoin.keys.key_id import SECRET_BYTES, KeyIdCodec
from shosoin.keys.messages import (
    Announce,
    Burn,
    Closed,
    Closing,
    Compare,
    Confirmed,
    Have,
    Hello,
    Lease,
    Leased,
    Message,
    Passed,
    Proven,
    Ready,
    Refused,
    Stored,
    Welcome,
    encode_message,
    no_proof,
    statement_of,
)
from shosoin.keys.pool import VerificationPool
from shosoin.keys.receiver import ReceivingEnd
from shosoin.keys.reconcile import StreamPlan, must_burn, plan_stream, was_counted_back, was_restored
from shosoin.keys.sender import SendingEnd
from shosoin.keys.store import Batch, BurnCopies, Commit, Emit, Send, Steps, StreamStore

__all__ = ["PAIR_RECORD", "PAIR_SECRET_BYTES", "PairEnd", "PairLimits", "secret_check_of"]

PAIR_SECRET_BYTES = 1024
PAIR_RECORD = "pair"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class PairLimits:
    """Sizes and ages of one pair."""

    lease_bytes: int = 256 * 1024
    """How far ahead of demand the sender leases; about as much is burned when either KME restarts."""
    capacity_bytes: int = 1 << 30
    """Most bytes the receiver stores."""
    expiry_s: float = 24 * 3600.0
    """Age after which handed-out keys that nobody fetched are overwritten."""
    max_age_s: int = 0
    """Age after which bits are burned at both ends, handed out or not; 0 means never."""


def _timeless() -> float:
    """Stand for a clock where nothing ever grows old."""
    return 0.0


class PairEnd:
    """State of a pair at one KME.

    Args:
        wall_s: wall clock in seconds, for the age of bits.

    Raises:
        StreamRefused: if the journal is damaged, or belongs to another pair or pair secret.
    """

    def __init__(
        self,
        own: str,
        peer: str,
        secret: bytes,
        store: StreamStore,
        entropy: Entropy,
        limits: PairLimits,
        *,
        wall_s: Callable[[], float] = _timeless,
    ) -> None:
        if len(secret) != PAIR_SECRET_BYTES or own == peer:
            raise StreamRefused(f"pair secret for {peer} has {len(secret)} bytes, expected {PAIR_SECRET_BYTES}")
        self.own, self.peer = own, peer
        self._store, self._entropy = store, entropy
        self._cache = BlockCache(store)
        self._max_age_s = limits.max_age_s
        self._incarnation = entropy.random_bytes(16).hex()
        self._generation = 0
        self._seen: tuple[int, str] = (0, "")
        self._resume = self._peer_resume = ""
        self._burns = self._seen_burns = 0
        self.burn_mark = ""
        """Changes whenever a handshake or an operator burns all that is held, for those who hold drawn keys in memory.
        """
        self._retired: Sequence[str] = ()
        self._awaits_rekey = False
        """Whether an intruder may know the pair secret: the other end is told to burn, and nothing else happens.

        Both ends write it down, so that an old copy of one disk cannot forget it."""
        self._owes_copies = False
        """Whether the pair was burned, here or at the other end, and the multicast copies may still be there."""
        self._settled = False
        self._owes_plan = False
        """Whether this end was burned and has made no plan durable since: the other end may have, and be ahead."""
        self._plan_open = False
        """Whether a plan that burns is durable here, and the other end has not said that it is there: it may be behind.
        """
        self.refusal = ""
        """Why the last handshake was refused; empty when it was not."""
        self._fresh = True
        self._hello: Hello | None = None
        self._outgoing_plan: StreamPlan
        self._incoming_plan: StreamPlan
        self._session = ""
        self._spoken = {own: 0, peer: 0}
        """How many proven messages each end has said in this session, so that none counts twice or out of turn."""
        self._open = False
        half = PAIR_SECRET_BYTES // 2
        parts = {own < peer: secret[:half], own > peer: secret[half:]}
        self.outgoing_ids = KeyIdCodec(parts[True][:SECRET_BYTES])
        self.incoming_ids = KeyIdCodec(parts[False][:SECRET_BYTES])
        first = {out: VerificationPool.from_secret(parts[out][SECRET_BYTES:]) for out in (True, False)}
        self.outgoing = SendingEnd(peer, self._cache, first[True], lease_bytes=limits.lease_bytes, wall_s=wall_s)
        self.incoming = ReceivingEnd(
            peer,
            self._cache,
            first[False],
            expiry_s=limits.expiry_s,
            capacity_bytes=limits.capacity_bytes,
            wall_s=wall_s,
        )
        self.outgoing.max_age_s = self.incoming.max_age_s = limits.max_age_s
        self._proof_key = blake2b(key=secret[:SECRET_BYTES], digest_size=32, person=b"shosoin proofkey").digest()
        self._exhaustion_told = False
        self._secret_check = secret_check_of(secret)
        self.outgoing.era = self.incoming.era = self._secret_check[:16]

    # Life

    @property
    def is_open(self) -> bool:
        """Whether the two ends have agreed, in this run, on what is unused, and still hold the same secret."""
        return not self._fresh and not self.refusal

    @property
    def is_connected(self) -> bool:
        """Whether messages can be exchanged right now."""
        return self._open

    @property
    def is_settled(self) -> bool:
        """Whether no burn of this end is unfinished, as far as is known: only then do its multicast copies count."""
        return self._settled

    @property
    def generation(self) -> int:
        """How many times this end has started."""
        return self._generation

    def start(self) -> Steps:
        """Load the journal, finish a burn, and make this run's generation durable; must come first."""
        records = self._store.load()
        if records:
            self._restore(records)
        if self._owes_copies:
            yield BurnCopies()
            self._owes_copies = False  # durable with what follows, and nothing is sent or stored for slaves before that
        self._generation += 1
        yield Commit(self._own_batch(Batch(records={**self.outgoing.records(), **self.incoming.records()})))
        self._settled = True

    def connected(self) -> Steps:
        """Open the handshake on a new classical channel."""
        self._open = False
        self._spoken = {self.own: 0, self.peer: 0}
        self.outgoing.proof_of = self.incoming.proof_of = no_proof
        self.incoming.forget_announcements()
        hello = Hello(
            kme=self.own,
            generation=self._generation,
            incarnation=self._incarnation,
            fresh=self._fresh,
            nonce=self._entropy.random_bytes(16).hex(),
            resume=self._resume,
            seen_generation=self._seen[0],
            seen_incarnation=self._seen[1],
            seen_resume=self._peer_resume,
            burns=self._burns,
            seen_burns=self._seen_burns,
            outgoing=self.outgoing.view(),
            incoming=self.incoming.view(),
            max_age_s=self._max_age_s,
            awaits_rekey=self._awaits_rekey,
        )
        self._session = ""
        self._hello = replace(hello, proof=self._hello_proof(hello))
        yield Send(self._hello)

    def disconnected(self) -> None:
        """Note that the channel is gone; what is leased can still be drawn, what is ready can still be fetched."""
        self._open = False
        self._hello = None

    def concerns(self, message: Message) -> bool:
        """Whether a message was said in the present session; of others only the handshake's count."""
        return self._open and not isinstance(message, Hello) and message.session == self._session

    def receive(self, message: Message, now_s: float) -> Steps:
        """React to a message of the peer."""
        if isinstance(message, Hello):
            yield from self._on_hello(message)
        elif isinstance(message, Welcome):
            yield from self._on_welcome(message)
        elif self.concerns(message):
            yield from self._dispatch(message, now_s)

    def begin_block(self, number: int, bits: bytes | bytearray) -> Steps:
        """Take in a block that this end's device sent; it is lost while the stream cannot take it."""
        if self._open and self.outgoing.can_begin:
            yield from self.outgoing.begin(number, bits)

    def bits_arrived(self, number: int, bits: bytearray) -> Steps:
        """Take in a block that this end's device received."""
        yield from self.incoming.on_bits(number, bits)

    def extend_lease(self, granules: int) -> Steps:
        """Ask for a higher lease."""
        if self._open:
            yield from self.outgoing.extend_lease(granules)

    def tick(self, now_s: float) -> Steps:
        """Do what time makes due: overwriting, expiry."""
        batch = self.outgoing.flush()
        if batch is not None:
            yield Commit(batch)
        yield from self.outgoing.expire()
        if self._open:
            yield from self._tell_exhaustion()
            yield from self.outgoing.report()
            yield from self.incoming.tick(now_s)

    def close(self) -> Steps:
        """Stop handing out, and leave with the peer a token that vouches for what was fetched here."""
        was_open, self._fresh = self._open, True
        if was_open:
            self._resume = self._entropy.random_bytes(16).hex()
            yield Commit(self._own_batch(Batch(records=self.incoming.fetched_record(self._resume))))
            yield Send(self._proven(Closing(self._session, self._resume)))

    def abandon(self) -> None:
        """Stop serving for good: the store failed, or is about to be burned, so what is durable is no longer known."""
        self._open, self._fresh, self._hello = False, True, None
        self._settled = False
        self.wipe()

    def mark_burned(self) -> None:
        """Tell whoever holds drawn keys in memory that all is burned."""
        self.burn_mark = self._entropy.random_bytes(8).hex()

    def wipe(self) -> None:
        """Forget all plaintext in memory."""
        self._cache.forget_all()
        self.incoming.forget_bits()

    def require_open(self) -> None:
        """Check that keys may be handed out and fetched.

        Raises:
            StreamNotReady: before the handshake of this run.
        """
        if self._fresh or self.refusal:
            why = self.refusal or f"the stream with {self.peer} is not open"
            raise StreamNotReady(why, retry_after_s=1.0)

    def _tell_exhaustion(self) -> Steps:
        if self.outgoing.pool_exhausted and not self._exhaustion_told:
            self._exhaustion_told = True
            yield Emit(Event("keys.pool_exhausted", "alarm", {"peer": self.peer, "stream": "out"}))

    # Handshake

    def _proof(self, speaker: str, statement: str) -> str:
        """Return the keyed hash of what ``speaker`` states next in this session."""
        content = f"{self._session}\0{speaker}\0{self._spoken[speaker]}\0{statement}".encode()
        return blake2b(content, key=self._proof_key, digest_size=16, person=b"shosoin proof").hexdigest()

    def _prove(self, statement: str) -> str:
        """Return the proof of what this end says now."""
        proof = self._proof(self.own, statement)
        self._spoken[self.own] += 1
        return proof

    def _hello_proof(self, hello: Hello) -> str:
        """Return the keyed hash of a whole hello; an old one can be said again, which at most burns bits."""
        content = encode_message(hello)
        return blake2b(content, key=self._proof_key, digest_size=16, person=b"shosoin hello").hexdigest()

    def _forged(self) -> Steps:
        self.refusal = (
            f"{self.peer} does not prove that it holds our pair secret: "
            "one end was re-keyed and the other was not, or somebody else answers"
        )
        yield Emit(Event("keys.forged_handshake", "alarm", {"peer": self.peer}))
        raise PairProtocolError("whoever answers does not know the pair secret")

    def _disbelieve(self, wrong: str) -> Steps:
        self.refusal = (
            f"{self.peer} claims {wrong}: its records are wrong or it lies; "
            "once that is settled, re-key the pair at both ends: shosoin kme rekey"
        )
        yield Emit(Event("keys.implausible_claim", "alarm", {"peer": self.peer, "claim": wrong}))
        raise PairProtocolError(f"a claim that cannot be: {wrong}")

    def _on_hello(self, theirs: Hello) -> Steps:
        mine, self._hello = self._hello, None
        if mine is None or theirs.kme != self.peer:
            raise PairProtocolError(f"hello of {theirs.kme!r} when {self.peer} was expected")
        if not hmac.compare_digest(theirs.proof.encode(), self._hello_proof(replace(theirs, proof="")).encode()):
            yield from self._forged()
        wrong = implausible_claim(mine, theirs)
        if wrong:
            yield from self._disbelieve(wrong)
        culprit = self._restored(mine, theirs)
        if culprit:
            yield Emit(Event("keys.restored_copy", "alarm", {"peer": self.peer, "restored": culprit}))
        # What is to be burned at the other end's word, or came back with a disk that forgot a burn.
        takes_copies = theirs.burns > mine.seen_burns or theirs.seen_burns > mine.burns
        if takes_copies:
            self._owes_copies, self._settled = True, False
            yield Commit(self._own_batch(Batch()))  # whatever ends this, they are given to nobody
        burns = was_restored(theirs, mine) or was_restored(mine, theirs) or must_burn(mine, theirs)
        if burns:
            self.mark_burned()
        if must_burn(mine, theirs):
            yield Emit(
                Event("keys.burned", "warning", {"peer": self.peer, "burned_here": mine.burns > theirs.seen_burns})
            )
        if theirs.awaits_rekey and not self._awaits_rekey:
            self._awaits_rekey = True
            yield Emit(Event("keys.rekey_needed", "alarm", {"peer": self.peer}))
        self._outgoing_plan = plan_stream(mine, theirs)
        self._incoming_plan = plan_stream(theirs, mine)
        batch = _merge(self.outgoing.apply(self._outgoing_plan), self.incoming.apply(self._incoming_plan))
        ages = [age for age in (self._max_age_s, theirs.max_age_s) if age > 0]
        self.outgoing.max_age_s = self.incoming.max_age_s = min(ages, default=0)
        # Whoever resumed from a clean shutdown did so for the last time.
        self._resume = self._peer_resume = ""
        self._seen = max(self._seen[0], theirs.generation), theirs.incarnation
        # The higher of both numbers, so that an old copy can catch up and start again.
        self._generation = max(self._generation, theirs.seen_generation)
        # A disk that forgot a burn and was burned since: what the other end has carried out is the burn of before.
        is_another = self._owes_plan and mine.burns <= theirs.seen_burns and was_counted_back(mine, theirs)
        self._burns = max(self._burns, theirs.seen_burns) + is_another
        self._seen_burns = max(self._seen_burns, theirs.burns)
        self._owes_plan, self._plan_open = False, self._plan_open or burns
        if takes_copies:
            yield BurnCopies()  # before it counts as carried out
            self._owes_copies = False
        yield Commit(self._own_batch(batch))
        self._settled = True
        if is_another:
            raise PairProtocolError("the last burn of this end has the number of an earlier one: it is told anew")
        if self._awaits_rekey:
            self.refusal = f"the pair with {self.peer} was healed and awaits another pair secret: shosoin kme rekey"
        self._session = _session_of(mine, theirs)
        yield Send(Welcome(self._session, self._proof(self.own, "welcome")))

    def _restored(self, mine: Hello, theirs: Hello) -> str:
        """Return which KME's disk is an old copy, empty if neither need be.

        A plan that burns moves the numbers of both streams, so an end that died before it was durable there is behind
        the other one and no old copy; its own counts say whether it is one all the same.
        """
        if was_counted_back(theirs, mine) or (was_restored(theirs, mine) and not self._plan_open):
            return self.peer
        excused = self._owes_plan or theirs.burns > mine.seen_burns
        if was_counted_back(mine, theirs) or (was_restored(mine, theirs) and not excused):
            return self.own
        return ""

    def _on_welcome(self, message: Welcome) -> Steps:
        if self._open:
            raise PairProtocolError("a second welcome in one session")
        if not self._session or not hmac.compare_digest(message.session.encode(), self._session.encode()):
            raise PairProtocolError("the two ends saw different hellos")
        if not hmac.compare_digest(message.proof.encode(), self._proof(self.peer, "welcome").encode()):
            yield from self._forged()
        if self._plan_open:
            self._plan_open = False
            yield Commit(self._own_batch(Batch()))
        if self._awaits_rekey:
            return
        self._open, self._fresh, self.refusal = True, False, ""
        self.outgoing.session = self.incoming.session = self._session
        self.outgoing.proof_of = self.incoming.proof_of = self._prove
        self._exhaustion_told = False
        yield Emit(Event("keys.stream_open", "info", {"peer": self.peer, "generation": self._generation}))
        yield from self.outgoing.resume(self._outgoing_plan)
        yield from self.incoming.resume(self._incoming_plan)

    def _check_proof(self, message: Proven) -> None:
        expected = self._proof(self.peer, statement_of(message))
        if not hmac.compare_digest(message.proof.encode(), expected.encode()):
            raise PairProtocolError(f"somebody else spoke for {self.peer}: {message.type} without its proof")
        self._spoken[self.peer] += 1

    def _dispatch(self, message: Any, now_s: float) -> Steps:
        if isinstance(message, Proven):
            self._check_proof(message)
        reactions: dict[type[Any], Callable[[Any], Steps]] = {
            Announce: lambda m: self.incoming.on_announce(m, now_s),
            Have: self.outgoing.on_have,
            Compare: self.incoming.on_compare,
            Stored: self.outgoing.on_stored,
            Ready: self.incoming.on_ready,
            Confirmed: self.outgoing.on_confirmed,
            Refused: self.outgoing.on_refused,
            Burn: self.incoming.on_burn,
            Lease: self.incoming.on_lease,
            Leased: self.outgoing.on_leased,
            Passed: self.incoming.on_passed,
            Closing: self._on_closing,
            Closed: _ignore,
        }
        yield from reactions[type(message)](message)

    def _proven(self, message: Closing | Closed) -> Closing | Closed:
        return replace(message, proof=self._prove(statement_of(message)))

    def _on_closing(self, message: Closing) -> Steps:
        self._peer_resume = message.resume
        yield Commit(self._own_batch(Batch()))
        yield Send(self._proven(Closed(self._session, message.resume)))

    # Journal

    def first_records(self, retired: Sequence[str]) -> dict[str, bytes | None]:
        """Return the journal of a pair that has never started.

        Args:
            retired: fingerprints of the secrets that the pair had before.
        """
        self._retired = retired
        return dict(self._own_batch(Batch(records={**self.outgoing.records(), **self.incoming.records()})).records)

    def _own_batch(self, batch: Batch) -> Batch:
        record = {
            "format": _FORMAT,
            "own": self.own,
            "peer": self.peer,
            "secret_check": self._secret_check,
            "generation": self._generation,
            "seen_generation": self._seen[0],
            "seen_incarnation": self._seen[1],
            "resume": self._resume,
            "peer_resume": self._peer_resume,
            "burns": self._burns,
            "seen_burns": self._seen_burns,
            "retired": list(self._retired),
            "awaits_rekey": self._awaits_rekey,
            "owes_copies": self._owes_copies,
            "owes_plan": self._owes_plan,
            "plan_open": self._plan_open,
        }
        return _merge(batch, Batch(records={PAIR_RECORD: dump_record(record)}))

    def _restore(self, records: dict[str, bytes]) -> None:
        try:
            record = load_record(records[PAIR_RECORD])
            expected = (_FORMAT, self.own, self.peer, self._secret_check)
            found = tuple(record[name] for name in ("format", "own", "peer", "secret_check"))
            if found != expected:
                raise StreamRefused(f"the journal for {self.peer} belongs to another pair, format or pair secret")
            self._generation = record["generation"]
            self._seen = record["seen_generation"], record["seen_incarnation"]
            self._resume, self._peer_resume = record["resume"], record["peer_resume"]
            self._burns, self._seen_burns = record.get("burns", 0), record.get("seen_burns", 0)
            self._retired = record.get("retired", ())
            self._awaits_rekey = record.get("awaits_rekey", False)
            self._owes_copies = record.get("owes_copies", False)
            self._owes_plan, self._plan_open = record.get("owes_plan", False), record.get("plan_open", False)
            self.outgoing.restore(records)
            if not self.incoming.restore(records, self._resume):
                self._resume = ""
        except (KeyError, TypeError, ValueError) as err:
            raise StreamRefused(f"the journal for {self.peer} is incomplete") from err


def secret_check_of(secret: bytes) -> str:
    """Return the fingerprint by which a journal knows its pair secret; it tells nobody anything about the secret."""
    return blake2b(secret, digest_size=16, person=b"shosoin pair").hexdigest()


def _ignore(_: Closed) -> Steps:
    yield from ()


def _session_of(mine: Hello, theirs: Hello) -> str:
    lower, higher = sorted((encode_message(mine), encode_message(theirs)))
    return blake2b(lower + higher, digest_size=16, person=b"shosoin session").hexdigest()


def _merge(first: Batch, second: Batch) -> Batch:
    return Batch(
        records={**first.records, **second.records},
        blocks={**first.blocks, **second.blocks},
        wipes=[*first.wipes, *second.wipes],
        drops=[*first.drops, *second.drops],
    )
