"""Certificate revocation lists (RFC 5280, section 5) in PEM or DER, believed only under the authority's signature.

Whoever can write to the folder of the lists can withhold one, but can neither forge one nor put an older one back while
the program runs: of two lists of one authority the newer counts. A list that this module does not understand in full
(delta lists, indirect ones, those for some reasons or one distribution point only) is refused, since half a list read
as a whole would let a revoked certificate in.

Not here: OCSP; lists of authorities that are not among those given (an intermediate one is given beside its root).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from shosoin.adapters.tls_files import issuer_id, read_bounded, trace
from shosoin.base import Rejected

__all__ = ["Reading", "RevocationList", "list_traces", "merged", "read_lists"]

_BYTES_MAX = 32 << 20
_FILES_MAX = 64
_SKEW = datetime.timedelta(minutes=5)
_PEM = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_ENDINGS = {".crl", ".pem", ".der"}


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One authority's list."""

    issuer: str
    made: datetime.datetime
    next: datetime.datetime
    """When the next one is due; after that this one is outdated."""
    serials: frozenset[int] = field(repr=False)

    def is_current(self, now: datetime.datetime) -> bool:
        """Whether a newer list need not exist yet."""
        return now <= self.next


@dataclass(slots=True)
class Reading:
    """What was found in a file or folder."""

    lists: dict[bytes, RevocationList] = field(default_factory=dict)
    """The newest list of each authority (``tls_files.issuer_id``)."""
    faults: list[str] = field(default_factory=list)
    """What could not be used, and why."""


def list_traces(path: Path) -> tuple[object, ...]:
    """Return what changes when one of the lists does."""
    return tuple((str(each), trace(each)) for each in _files(path)[:_FILES_MAX])


def read_lists(path: Path, authorities: Sequence[x509.Certificate], now: datetime.datetime) -> Reading:
    """Read a file, or every ``*.crl``, ``*.pem`` and ``*.der`` of a folder; outdated lists are read as well."""
    reading, files = Reading(), _files(path)
    if not files:
        reading.faults.append(f"{path} has no revocation lists")
    if len(files) > _FILES_MAX:
        reading.faults.append(f"{path} has {len(files)} files, of which {_FILES_MAX} were read")
    known = {issuer_id(authority): authority for authority in authorities}
    for each in files[:_FILES_MAX]:
        try:
            for one in _parsed(each):
                identifier, listed = _believed(each, one, known, now)
                reading.lists[identifier] = _newer(reading.lists.get(identifier), listed)
        except Rejected as err:
            reading.faults.append(err.message)
    return reading


def merged(
    old: Mapping[bytes, RevocationList], new: Mapping[bytes, RevocationList], known: Iterable[bytes]
) -> tuple[dict[bytes, RevocationList], list[str]]:
    """Return the lists to go by, and which of the new ones are older than what is in use.

    Args:
        old: those in use.
        new: those just read.
        known: authorities that are trusted now; lists of others are dropped.
    """
    lists, faults = {}, []
    for identifier in known:
        before, after = old.get(identifier), new.get(identifier)
        if before is not None and after is not None and after.made < before.made:
            faults.append(f"the list of {after.issuer} is older than the one in use")
        found = _newer(before, after) if after is not None else before
        if found is not None:
            lists[identifier] = found
    return lists, faults


def _newer(one: RevocationList | None, other: RevocationList) -> RevocationList:
    if one is None or one.made < other.made:
        return other
    if one.made > other.made:
        return one
    # Made in the same second: which came first is not known, and a revocation must not be taken back.
    return replace(other, serials=one.serials | other.serials, next=min(one.next, other.next))


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        return sorted(each for each in path.iterdir() if each.suffix.lower() in _ENDINGS)
    except OSError:
        return [path]  # reading it tells why


def _parsed(path: Path) -> list[x509.CertificateRevocationList]:
    raw = read_bounded(path, _BYTES_MAX)
    try:
        if b"-----BEGIN " not in raw:
            return [x509.load_der_x509_crl(raw)]
        found = [x509.load_pem_x509_crl(each) for each in _PEM.findall(raw)]
    except ValueError as err:
        raise Rejected(f"{path} is no revocation list in PEM or DER", code="tls.bad_crl") from err
    if not found or len(found) != raw.count(b"-----BEGIN "):
        raise Rejected(f"{path} is broken, or has something else than revocation lists", code="tls.bad_crl")
    return found


def _believed(
    path: Path, crl: x509.CertificateRevocationList, known: Mapping[bytes, x509.Certificate], now: datetime.datetime
) -> tuple[bytes, RevocationList]:
    issuer = crl.issuer.rfc4514_string()[:200]
    signers = [identifier for identifier, authority in known.items() if _signed(crl, authority)]
    if not signers:
        raise Rejected(f"{path}: no authority that is trusted here signed the list of {issuer}", code="tls.bad_crl")
    due = crl.next_update_utc
    if due is None:
        raise Rejected(f"{path}: the list of {issuer} does not say when the next one is due", code="tls.bad_crl")
    if crl.last_update_utc > now + _SKEW:
        raise Rejected(f"{path}: the list of {issuer} is of the future", code="tls.bad_crl")
    try:
        _check_whole(crl)
        serials = frozenset(each.serial_number for each in _direct(crl))
    except ValueError as err:
        raise Rejected(f"{path}: the list of {issuer}: {err}", code="tls.bad_crl") from err
    return signers[0], RevocationList(issuer, crl.last_update_utc, due, serials)


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject or not _may_sign(authority):
        return False
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # other kinds raise TypeError
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False


def _may_sign(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False


def _check_whole(crl: x509.CertificateRevocationList) -> None:
    """Raise ValueError unless the list speaks of all certificates of its authority."""
    for extension in crl.extensions:
        value = extension.value
        if isinstance(value, x509.DeltaCRLIndicator):
            raise ValueError("it is a delta list, expected a whole one")  # noqa: TRY004  # not about a Python type
        if isinstance(value, x509.IssuingDistributionPoint):
            if value.indirect_crl or value.only_some_reasons or value.only_contains_attribute_certs:
                raise ValueError("it is indirect, or not for all reasons")
            if value.only_contains_ca_certs or value.full_name or value.relative_name:
                raise ValueError("it is about authorities only, or one of several parts")
        elif extension.critical:
            raise ValueError(f"the critical extension {extension.oid.dotted_string} is not understood")


def _direct(crl: x509.CertificateRevocationList) -> Iterable[x509.RevokedCertificate]:
    for each in crl:
        for extension in each.extensions:
            if extension.critical and not isinstance(extension.value, x509.CRLReason):
                raise ValueError("an entry has a critical extension that is not understood")
        yield each
