"""The life of a pair's secrets, as commands while the KME stands still: burn, heal, re-key.

A burn can be had from a running KME too (``shosoin.services.kme_links``); what it does to the journal is the same.

Each change of a pair's journal is one durable batch (``keys.burning``). Re-keying changes the journal first and the
file of the pair secret second: whoever was interrupted in between finds the pair refused, because the journal knows
the secret it belongs to, and calls the command again.
"""

from __future__ import annotations

import difflib
import hmac
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from shosoin.adapters.discard_marks import DISCARDED_RECORD, DiscardMark
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.private_files import create_private, read_private, replace_private, require_writable, settle
from shosoin.adapters.state_lock import StateLock
from shosoin.base import Rejected
from shosoin.keys.burning import (
    BurnCopies,
    Holding,
    InstallSecret,
    OperatorStep,
    burn_batch,
    burn_steps,
    check_secret,
    closed_batch,
    holding_of,
    is_installed,
    rekey_batch,
    rekey_steps,
)
from shosoin.keys.errors import PairSecretRejected, StoreUnavailable, StreamRefused
from shosoin.keys.pair import PAIR_SECRET_BYTES, secret_check_of
from shosoin.keys.store import Batch, Commit, StreamStore
from shosoin.services.kme_config import KmeConfig, LinkSection
from shosoin.services.kme_stores import burn_copies, discard_copies, discard_store, open_store, stored_peers
from shosoin.services.sources.suspension import lift_suspension
from shosoin.services.storage_key import existing_storage_key, storage_key

__all__ = ["Burned", "Rekeyed", "burn", "heal", "lift", "make_secret", "peers_to_heal", "rekey"]

_NOTHING = Holding(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What re-keying did at this end, or would do."""

    held: Holding
    """What there was of the old pair."""
    was_installed: bool
    """The journal was under the new secret already; at most the file was left to replace."""
    discarded: bool
    """The old journal, or the multicast copies, were damaged and thrown away unread."""


def make_secret(path: Path) -> None:
    """Write a new pair secret to a private file that does not exist yet.

    Raises:
        Rejected: it exists.
    """
    try:
        create_private(path, SystemEntropy().random_bytes(PAIR_SECRET_BYTES))
    except FileExistsError as err:
        raise Rejected(f"{path} exists already", code="kme.file_exists", hint="a secret is never overwritten") from err


def peers_to_heal(config: KmeConfig) -> list[str]:
    """Return all peers of a KME: those of its links, and those of whom something is stored from earlier links."""
    return sorted({*(str(link.peer) for link in config.links), *stored_peers(config)})


@dataclass(frozen=True, slots=True)
class Burned:
    """What a burn did at this end, or would do."""

    held: dict[str, Holding]
    """What there was, by peer."""
    refused: dict[str, StreamRefused]
    """Pairs of which something could not be read and was left as it is: it serves nothing."""


def burn(config: KmeConfig, peer: str, *, dry_run: bool) -> Burned:
    """Burn a pair at this end; the peer burns at its next handshake.

    Raises:
        Rejected: there is no such pair; nothing is burned then.
        Unavailable: the KME runs, or the storage key cannot be had; nothing is burned then.
    """
    _check_known(config, peer)
    with StateLock(config.kme.directory, exclusive=True):
        return _burn_all(config, [peer], existing_storage_key(config), dry_run=dry_run, until_rekeyed=False)


def heal(config: KmeConfig, *, dry_run: bool, keep_secrets: bool = False) -> Burned:
    """Burn all pairs that can be; the same failures. Keys between SAEs of this KME went when it stopped.

    Args:
        keep_secrets: whether pairs open again under their present secrets; else they stay closed until re-keyed.
    """
    with StateLock(config.kme.directory, exclusive=True):
        key = existing_storage_key(config)
        return _burn_all(config, peers_to_heal(config), key, dry_run=dry_run, until_rekeyed=not keep_secrets)


def lift(config: KmeConfig, peer: str) -> str:
    """Let a link that an alarm has suspended make keys again; return the code of the alarm, empty without one.

    Raises:
        Rejected: there is no such pair.
        Unavailable: the KME runs, or the file cannot be removed.
    """
    _check_known(config, peer)
    with StateLock(config.kme.directory, exclusive=True):
        return lift_suspension(config.kme.directory / "sources" / peer)


def _burn_all(config: KmeConfig, peers: Sequence[str], key: bytes, *, dry_run: bool, until_rekeyed: bool) -> Burned:
    done = Burned({}, {})
    for peer in peers:
        try:
            done.held[peer] = _burn_one(config, peer, key, dry_run=dry_run, until_rekeyed=until_rekeyed)
        except StreamRefused as err:
            done.refused[peer] = err
    return done


def _burn_one(config: KmeConfig, peer: str, key: bytes, *, dry_run: bool, until_rekeyed: bool) -> Holding:
    secret = _secret_in_place(config, peer) if until_rekeyed and not dry_run else b""
    if not secret and peer not in stored_peers(config):  # this end is new, and the handshake burns in any case
        _carry_out([] if dry_run else burn_steps(None), None, config, peer, key)
        return _NOTHING
    with closing(open_store(config, peer, key)) as store:
        records = store.load()
        held = holding_of(records)
        batch: Batch | None = None
        if records:
            batch = burn_batch(records, until_rekeyed=until_rekeyed)
        elif secret:  # never used, and known to whoever was here all the same
            batch = closed_batch(config.kme.id, peer, secret, store=store, entropy=SystemEntropy())
        _carry_out([] if dry_run else burn_steps(batch), store, config, peer, key)
    return held


def _carry_out(
    steps: Sequence[OperatorStep], store: StreamStore | None, config: KmeConfig, peer: str, key: bytes
) -> None:
    for step in steps:
        if isinstance(step, Commit) and store is not None:
            store.commit(step.batch)
        elif isinstance(step, BurnCopies):
            burn_copies(config, peer, key)


def rekey(config: KmeConfig, peer: str, secret_file: Path, *, dry_run: bool, discard_damaged: bool = False) -> Rekeyed:
    """Put another pair secret in the place of the old one, at this end, and burn everything of the old pair.

    Raises:
        Rejected: no such pair, or no fresh pair secret.
        Denied: others can read the secret.
        Unavailable: the KME runs, or the journal cannot be read.
    """
    link = _link(config, peer)
    secret = read_private(secret_file, "pair secret", bytes_max=PAIR_SECRET_BYTES)
    check_secret(secret)
    require_writable(link.pair_secret_file, "pair secret")
    if dry_run and peer not in stored_peers(config):  # a dry run makes no directory, and no lock in it
        return Rekeyed(_NOTHING, was_installed=False, discarded=False)
    config.kme.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with StateLock(config.kme.directory, exclusive=True):
        key = storage_key(config)
        if discard_damaged and _is_damaged(config, peer, key, secret):
            return _rekey_unread(config, link, key, secret, dry_run=dry_run)
        return _rekey_journal(config, link, key, secret, dry_run=dry_run, discard_damaged=discard_damaged)


def _install(path: Path, secret: bytes) -> None:
    """Put a secret in its place, or finish doing so: an interrupted replacement leaves the old one beside it."""
    if _holds(path, secret):
        settle(path)
    else:
        replace_private(path, secret)


def _is_damaged(config: KmeConfig, peer: str, key: bytes, secret: bytes) -> bool:
    """Whether a journal cannot be read; one that is only out of reach is not damaged.

    Raises:
        StoreUnavailable: it is out of reach.
    """
    try:
        with closing(open_store(config, peer, key)) as store:
            records = store.load()
            holding_of(records)
            is_installed(records, secret)
    except StoreUnavailable:
        raise
    except StreamRefused:
        return True
    return False


def _rekey_journal(
    config: KmeConfig, link: LinkSection, key: bytes, secret: bytes, *, dry_run: bool, discard_damaged: bool
) -> Rekeyed:
    discarded = False
    try:
        with closing(open_store(config, link.peer, key)) as store:
            records = store.load()
            held = holding_of(records)
            was_installed = is_installed(records, secret)
            steps = rekey_steps(records, config.kme.id, link.peer, secret, store=store, entropy=SystemEntropy())
            for step in () if dry_run else steps:
                match step:
                    case BurnCopies():
                        discarded = _burn_copies(config, link.peer, key, discard_damaged=discard_damaged)
                    case Commit(batch):
                        store.commit(batch)
                    case InstallSecret():
                        _install(link.pair_secret_file, secret)
    except StoreUnavailable:
        raise
    except StreamRefused as err:
        err.hint = "if what is stored is lost for good: --discard-damaged"
        raise
    return Rekeyed(held, was_installed=was_installed, discarded=discarded)


def _burn_copies(config: KmeConfig, peer: str, key: bytes, *, discard_damaged: bool) -> bool:
    """Remove the copies of a pair; return whether those of all pairs were thrown away, since they cannot be read."""
    try:
        burn_copies(config, peer, key)
    except StoreUnavailable:
        raise
    except StreamRefused:
        if not discard_damaged:
            raise
        discard_copies(config)
        return True
    return False


def _rekey_unread(config: KmeConfig, link: LinkSection, key: bytes, secret: bytes, *, dry_run: bool) -> Rekeyed:
    """Throw a journal away that cannot be read, and begin anew; interrupted, the pair stays shut until repeated."""
    mark = DiscardMark(config.kme.directory, link.peer)
    used = sorted({*mark.used(), *_fingerprint_in_place(link)})  # all that can be known of the secrets that were used
    if secret_check_of(secret) in used:
        raise PairSecretRejected(f"the pair with {link.peer} has used this secret before")
    if not dry_run:
        mark.write(used)
        discard_store(config, link.peer, key)
        with closing(open_store(config, link.peer, key, half_gone=True)) as store:
            batch = rekey_batch({}, config.kme.id, link.peer, secret, store=store, entropy=SystemEntropy(), used=used)
            store.commit(replace(batch, records={**batch.records, DISCARDED_RECORD: None}))
        mark.remove()
        _install(link.pair_secret_file, secret)
    return Rekeyed(_NOTHING, was_installed=False, discarded=True)


def _fingerprint_in_place(link: LinkSection) -> list[str]:
    try:
        return [secret_check_of(link.pair_secret_file.read_bytes())]
    except FileNotFoundError:
        return []


def _holds(path: Path, secret: bytes) -> bool:
    try:
        return hmac.compare_digest(path.read_bytes(), secret)
    except FileNotFoundError:
        return False


def _secret_in_place(config: KmeConfig, peer: str) -> bytes:
    """Return the pair secret that the next start would use, empty if there is none, or none that can be read."""
    with suppress(OSError):  # such a KME does not start either; all other pairs are burned
        for link in config.links:
            if link.peer == peer:
                return link.pair_secret_file.read_bytes()
    return b""


def _link(config: KmeConfig, peer: str) -> LinkSection:
    for link in config.links:
        if link.peer == peer:
            return link
    raise _unknown(config, peer, [str(link.peer) for link in config.links])


def _check_known(config: KmeConfig, peer: str) -> None:
    known = peers_to_heal(config)
    if peer not in known:
        raise _unknown(config, peer, known)


def _unknown(config: KmeConfig, peer: str, known: Sequence[str]) -> Rejected:
    near = difflib.get_close_matches(peer, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its peers are {', '.join(known) or 'none'}"
    return Rejected(f"{config.kme.id} has no pair with {peer[:64]!r}", code="kme.no_such_pair", hint=hint)
