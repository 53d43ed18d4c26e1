"""What burning and re-keying a pair do to its journal at one end, while its KME stands still.

A *burn* forgets every block of the pair at this end and raises a counter of burns. The other end hears of the counter
in the next handshake and keeps on record which burns it has carried out; until both counters agree, every handshake
plans the streams as after a restored copy: no block survives at either end, and both streams go on above every offset
that either end ever had. Nothing is cleared before the other end has made it durable, so a crash or a lost connection
at any point only burns again.

*Re-keying* replaces the whole journal by that of a new pair under another pair secret. Nothing of the old pair stays
but a fingerprint of each secret that it ever had: a pair secret used twice would use its one-time keys twice.

Both are one batch, durable as a whole or not at all. ``burn_steps`` and ``rekey_steps`` say what else belongs to them,
and in which order: whoever is interrupted between two steps calls the command again.

The multicast copies of the pair are in another store. So the batch of a burn notes that they are to be burned too
(``owes_copies``), and the next start does that, again or for the first time, before it clears the note and before
anything is served (``PairEnd.start``); a journal that cannot be read starts no pair. Re-keying burns them first:
its batch needs no note, and of what is interrupted before it only copies are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shosoin.base import Entropy
from shosoin.keys.blocks import Block, dump_record, load_record
from shosoin.keys.errors import PairSecretRejected, StreamRefused
from shosoin.keys.pair import PAIR_RECORD, PAIR_SECRET_BYTES, PairEnd, PairLimits, secret_check_of
from shosoin.keys.receiver import FETCHED_RECORD
from shosoin.keys.store import Batch, BurnCopies, Commit, StreamStore

__all__ = [
    "BurnCopies",
    "Holding",
    "InstallSecret",
    "OperatorStep",
    "burn_batch",
    "burn_steps",
    "burn_store",
    "check_secret",
    "closed_batch",
    "holding_of",
    "is_installed",
    "rekey_batch",
    "rekey_steps",
]

_DIFFERENT_BYTES_MIN = 128
"""Of 1024 random bytes about 250 values occur; fewer than half of that is no random secret."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one end holds of a pair; a granule is 256 bits."""

    blocks: int
    granules: int
    """Of all blocks, used or not."""
    burns: int
    """How often this end has been burned."""


@dataclass(frozen=True, slots=True)
class InstallSecret:
    """Put the new pair secret in the place of the old one, durably, unless it is there."""


OperatorStep = Commit | BurnCopies | InstallSecret


def burn_steps(batch: Batch | None) -> list[OperatorStep]:
    """Return the steps of a burn; there is no batch where nothing is stored of the pair."""
    return [*([Commit(batch)] if batch is not None else []), BurnCopies()]


def rekey_steps(
    records: Mapping[str, bytes], own: str, peer: str, secret: bytes, *, store: StreamStore, entropy: Entropy
) -> list[OperatorStep]:
    """Return the steps that make a pair that of another secret, or what is left of them after an interruption.

    The journal changes before the file of the secret: between the two it refuses the old secret, and knows that the new
    one is in use.

    Raises:
        PairSecretRejected: this pair has used the secret before, and not for this journal.
        StreamRefused: the journal is incomplete.
    """
    if is_installed(records, secret):
        return [InstallSecret()]
    batch = rekey_batch(records, own, peer, secret, store=store, entropy=entropy)
    return [BurnCopies(), Commit(batch), InstallSecret()]


def holding_of(records: Mapping[str, bytes]) -> Holding:
    """Return what a journal says is there.

    Raises:
        StreamRefused: a record is not what it should be.
    """
    try:
        blocks = [Block.load(raw) for name, raw in records.items() if name.startswith("block/")]
        burns = load_record(records[PAIR_RECORD]).get("burns", 0) if records else 0
    except (KeyError, TypeError, ValueError) as err:
        raise StreamRefused("the journal is incomplete") from err
    return Holding(len(blocks), sum(block.granules for block in blocks), burns)


def burn_store(store: StreamStore, *, dry_run: bool, until_rekeyed: bool = False) -> Holding | None:
    """Burn what a store holds of its pair; return what that was, ``None`` if the pair never started.

    Whoever runs the pair must open it anew afterwards.

    Args:
        dry_run: whether to look only.

    Raises:
        StreamRefused: the journal cannot be read or written.
    """
    records = store.load()
    if not records:
        return None
    held = holding_of(records)
    if not dry_run:
        store.commit(burn_batch(records, until_rekeyed=until_rekeyed))
    return held


def burn_batch(records: Mapping[str, bytes], *, until_rekeyed: bool = False) -> Batch:
    """Return what burns a pair at this end, its copies at the next start; the other end burns at the next handshake.

    Args:
        until_rekeyed: whether the pair stays closed at this end until it is given another secret.

    Raises:
        StreamRefused: the journal is incomplete.
    """
    try:
        pair = load_record(records[PAIR_RECORD])
        pair |= {"burns": pair.get("burns", 0) + 1, "resume": "", "peer_resume": "", "own": pair["own"]}
        pair["awaits_rekey"] = until_rekeyed or pair.get("awaits_rekey", False)
        pair["owes_copies"] = pair["owes_plan"] = True
    except (KeyError, TypeError) as err:
        raise StreamRefused("the journal is incomplete") from err
    blocks = [name for name in records if name.startswith("block/")]
    gone: dict[str, bytes | None] = dict.fromkeys([*blocks, FETCHED_RECORD])
    return Batch(
        records={**gone, PAIR_RECORD: dump_record(pair)},
        drops=[name.removeprefix("block/") for name in blocks],
    )


def closed_batch(own: str, peer: str, secret: bytes, *, store: StreamStore, entropy: Entropy) -> Batch:
    """Return what makes the journal of a pair that has never started, and stays closed until it is re-keyed.

    Raises:
        StreamRefused: the secret has another length.
    """
    fresh = PairEnd(own, peer, secret, store, entropy, PairLimits()).first_records(())
    known = {name: raw for name, raw in fresh.items() if raw is not None}
    return Batch(records={**fresh, **burn_batch(known, until_rekeyed=True).records})


def check_secret(secret: bytes) -> None:
    """Check that bytes can be a pair secret.

    Raises:
        PairSecretRejected: they have another length, or are plainly not random.
    """
    if len(secret) != PAIR_SECRET_BYTES:
        raise PairSecretRejected(f"a pair secret has {PAIR_SECRET_BYTES} bytes, got {len(secret)}")
    if len(set(secret)) < _DIFFERENT_BYTES_MIN:
        raise PairSecretRejected(f"a pair secret is random, these bytes have {len(set(secret))} different values only")


def is_installed(records: Mapping[str, bytes], secret: bytes) -> bool:
    """Whether a journal is already that of a pair under this secret, and not one that awaits another."""
    if not records:
        return False
    try:
        pair = load_record(records[PAIR_RECORD])
        return bool(pair["secret_check"] == secret_check_of(secret)) and not pair.get("awaits_rekey", False)
    except (KeyError, TypeError) as err:
        raise StreamRefused("the journal is incomplete") from err


def rekey_batch(
    records: Mapping[str, bytes],
    own: str,
    peer: str,
    secret: bytes,
    *,
    store: StreamStore,
    entropy: Entropy,
    used: Sequence[str] = (),
) -> Batch:
    """Return what makes a journal that of a new pair under another secret.

    Args:
        used: fingerprints of secrets that the pair is known to have used, besides those that the journal knows.

    Raises:
        PairSecretRejected: this pair has used the secret before.
        StreamRefused: the journal is incomplete.
    """
    check_secret(secret)
    retired = [*used, *_retired(records)]
    if secret_check_of(secret) in retired:
        raise PairSecretRejected(f"the pair with {peer} has used this secret before")
    fresh = PairEnd(own, peer, secret, store, entropy, PairLimits()).first_records(retired)
    blocks = [name.removeprefix("block/") for name in records if name.startswith("block/")]
    gone: dict[str, bytes | None] = dict.fromkeys(records)
    return Batch(records={**gone, **fresh}, drops=blocks)


def _retired(records: Mapping[str, bytes]) -> list[str]:
    """Return the fingerprints of all secrets that a pair had, its present one included."""
    if not records:
        return []
    try:
        pair = load_record(records[PAIR_RECORD])
        return [*pair.get("retired", ()), pair["secret_check"]]
    except (KeyError, TypeError) as err:
        raise StreamRefused("the journal is incomplete") from err
