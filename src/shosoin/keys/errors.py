"""How the key layer fails."""

from __future__ import annotations

from shosoin.base import Denied, PeerFault, Rejected, ShosoinError, Unavailable

__all__ = [
    "NOT_FOUND_MESSAGE",
    "CallerUnknown",
    "DemandUnmet",
    "KeyDamaged",
    "KeyNotFound",
    "KeyOfAnotherSae",
    "KeyStreamDry",
    "KeyTooOld",
    "KeysError",
    "LeaseNeeded",
    "PairPaused",
    "PairProtocolError",
    "PairSecretRejected",
    "PeerRefused",
    "QuotaExceeded",
    "RequestInvalid",
    "StoreUnavailable",
    "StreamNotReady",
    "StreamRefused",
]

NOT_FOUND_MESSAGE = "one or more keys specified are not found on KME"
"""Fixed by ETSI GS QKD 014 V1.1.1, clause 6.3."""
DEMAND_UNMET_MESSAGE = "not all extension_mandatory request options could be met"
"""Fixed by the same text, clause 6.2."""


class KeysError(ShosoinError):
    """A failure of the key layer."""

    code = "keys.error"


class KeyStreamDry(KeysError, Unavailable):
    """Too few ready bits for the whole request; nothing was consumed."""

    code = "keys.stream_dry"
    hint = "ask for less, or wait until the link has produced more"


class StreamNotReady(KeysError, Unavailable):
    """The two ends have not agreed on the stream since this process started, or there is no stream at all."""

    code = "keys.stream_not_ready"
    hint = "the stream opens once both KMEs run and reach each other"


class PairPaused(StreamNotReady):
    """An operator wants nothing to be handed out now; the stock stays as it is."""

    code = "keys.pair_paused"
    hint = "ask the operator of this KME"


class StreamRefused(KeysError, Unavailable):
    """The stored state of a pair is damaged or does not belong to this pair; the stream does not start."""

    code = "keys.stream_refused"
    hint = "re-key the pair at both ends: shosoin kme rekey"


class StoreUnavailable(StreamRefused):
    """Where a pair's state is stored cannot be reached, or another process owns it; the state itself may be sound."""

    code = "keys.store_unavailable"
    hint = "the stream starts again by itself once its store can be used"


class KeyTooOld(KeysError, Unavailable):
    """The bits that would be handed out next are older than the caller or a policy allows; nothing was consumed."""

    code = "keys.too_old"
    hint = "wait for new bits, or let the link's max_age_s burn old stock"


class DemandUnmet(KeysError, Rejected):
    """An extension that this KME knows asks for what it cannot give."""

    code = "keys.demand_unmet"

    def __init__(self) -> None:
        super().__init__(DEMAND_UNMET_MESSAGE)


class LeaseNeeded(KeysError, Unavailable):
    """Stock is there, but the peer has not yet recorded that it may be handed out; ask again after a lease."""

    code = "keys.lease_needed"

    def __init__(self, peer: str, granules: int) -> None:
        super().__init__(f"{granules * 32} bytes of the stream to {peer} wait for the peer's acknowledgement")
        self.peer = peer
        self.granules = granules


class KeyDamaged(KeysError, Unavailable):
    """Stored key bytes failed their check; they are burned."""

    code = "keys.damaged"
    hint = "draw another key"


class KeyNotFound(KeysError, Rejected):
    """A key_ID names no key that this caller can still fetch."""

    code = "keys.not_found"

    def __init__(self) -> None:
        super().__init__(NOT_FOUND_MESSAGE)


class RequestInvalid(KeysError, Rejected):
    """A parameter is outside what the KME serves."""

    code = "keys.request_invalid"


class KeyOfAnotherSae(KeysError, Denied):
    """The key_ID is genuine but was drawn for another SAE."""

    code = "keys.of_another_sae"


class CallerUnknown(KeysError, Denied):
    """The caller's certificate names no SAE of this KME."""

    code = "keys.caller_unknown"


class QuotaExceeded(KeysError, Unavailable):
    """The caller used up its share for now."""

    code = "keys.quota_exceeded"
    hint = "spread requests over time"


class PairSecretRejected(KeysError, Rejected):
    """Bytes that cannot be a pair secret, or that this pair has used before."""

    code = "keys.bad_pair_secret"
    hint = "make one with `shosoin kme new-secret FILE`, and carry the same file to both ends"


class PeerRefused(PeerFault):
    """The peer's KME understood a question and refused it; the code ends with the one that it gave."""

    code = "peer.refused"


class PairProtocolError(KeysError, PeerFault):
    """The peer KME sent what the pair protocol does not allow."""

    code = "keys.pair_protocol"
