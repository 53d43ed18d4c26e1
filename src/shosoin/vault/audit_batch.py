"""Auditing a batch of bodies: choose challenges, remember them, ask, judge, and keep what came of it as evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shosoin.base import ShosoinError, SiteId
from shosoin.vault.audit import ANSWERS_SPENT, Audited, ShareFound, events_of, judge
from shosoin.vault.audit_bodies import AuditBody
from shosoin.vault.audit_ledger import SLOT_S, AuditRecord, left_of, next_challenge
from shosoin.vault.concurrency import failure, settle
from shosoin.vault.context import VaultContext
from shosoin.vault.digests import DigestAnswers, DigestWanted, ask_digests
from shosoin.vault.layout import ANSWERS_PER_EPOCH

__all__ = ["AuditedBody", "ask_bodies", "keep_found", "state_of"]

_LETTERS = {
    ShareFound.OK: "k",
    ShareFound.UNCHECKED: "n",
    ShareFound.UNREACHABLE: "u",
    ShareFound.REFUSED: "r",
    ShareFound.MISSING: "m",
    ShareFound.DAMAGED: "d",
    ShareFound.DOUBTFUL: "q",
    ShareFound.WRONG: "w",
}


def state_of(letter: str) -> str:
    """Return the state that a letter of an entry stands for."""
    return next((state.value for state, known in _LETTERS.items() if known == letter), letter)


@dataclass(slots=True)
class AuditedBody:
    """What an audit found of one body."""

    body: AuditBody
    states: Audited
    challenge: str
    new: bool
    """Whether the challenge was new: only then a site that kept no more than its old answer is found."""
    silent: frozenset[SiteId]
    """Sites that did not answer the exchange."""
    record: AuditRecord
    """What the ledger knows, this challenge included."""

    @property
    def left(self) -> int:
        """New challenges that the shares still answer in this epoch."""
        return left_of(self.record, deal_checked=self.body.deal_checked)

    @property
    def well(self) -> bool:
        """Whether every site has a good share."""
        return all(state is ShareFound.OK for state in self.states.values())


async def ask_bodies(
    context: VaultContext, bodies: Sequence[AuditBody], *, slot_s: float = SLOT_S, fresh: bool = False
) -> list[AuditedBody]:
    """Audit bodies of one class, one exchange per site; challenges are remembered before they are sent."""
    records = _records(context, bodies)
    chosen = [
        next_challenge(
            record,
            deal_checked=body.deal_checked,
            now_wall_s=context.clock.wall_s(),
            slot_s=slot_s,
            fresh=fresh,
            entropy=context.entropy,
        )
        for body, record in zip(bodies, records, strict=True)
    ]
    records = [record for record, _ in chosen]
    context.ledger.save(
        {body.name: record for body, (record, new) in zip(bodies, chosen, strict=True) if new}  # before they are sent
    )
    answers = await _ask(context, bodies, [record.challenges[-1] for record in records])
    new = [is_new for _, is_new in chosen]
    await _repeat_spent(context, bodies, records, answers, new)
    return [
        AuditedBody(
            body,
            judge(body, answer, context.home),
            record.challenges[-1],
            is_new,
            frozenset(body.points) - answer.reached,
            record,
        )
        for body, record, answer, is_new in zip(bodies, records, answers, new, strict=True)
    ]


def _records(context: VaultContext, bodies: Sequence[AuditBody]) -> list[AuditRecord]:
    """Return what is remembered; of an earlier epoch only where the shares are."""
    known = context.ledger.records([body.name for body in bodies])
    found = [known.get(body.name) or AuditRecord(body.key.epoch) for body in bodies]
    return [
        record if record.epoch == body.key.epoch else AuditRecord(body.key.epoch)
        for body, record in zip(bodies, found, strict=True)
    ]


async def _ask(context: VaultContext, bodies: Sequence[AuditBody], challenges: Sequence[str]) -> list[DigestAnswers]:
    wanted = [
        DigestWanted(body.key, body.size_bytes, body.points, challenge)
        for body, challenge in zip(bodies, challenges, strict=True)
    ]
    return await ask_digests(context.channels(bodies[0].class_), wanted, context.runtime)


async def _repeat_spent(
    context: VaultContext,
    bodies: Sequence[AuditBody],
    records: list[AuditRecord],
    answers: list[DigestAnswers],
    new: list[bool],
) -> None:
    """Where the sites have no answers left, because somebody else of this owner spent them, repeat a known challenge.

    The word of the home site, which is trusted, counts, or that of more sites than may lie. Changes its arguments.
    """
    spent = [
        at for at, (body, answer) in enumerate(zip(bodies, answers, strict=True)) if _is_spent(context, body, answer)
    ]
    if not spent:
        return
    known = await _answered(context, [bodies[at] for at in spent])
    adopted = [(at, told) for at, told in zip(spent, known, strict=True) if told]
    for at, told in adopted:
        records[at] = replace(records[at], challenges=tuple(told), challenged_wall_s=context.clock.wall_s())
        new[at] = False
    if adopted:
        some = [at for at, _ in adopted]
        again = await _ask(context, [bodies[at] for at in some], [records[at].challenges[-1] for at in some])
        for at, answer in zip(some, again, strict=True):
            answers[at] = answer


def _is_spent(context: VaultContext, body: AuditBody, answer: DigestAnswers) -> bool:
    saying = {site for site, code in answer.codes.items() if code == ANSWERS_SPENT}
    return context.home in saying or len(saying) > (body.scheme.n - body.scheme.k) // 2


async def _answered(context: VaultContext, bodies: Sequence[AuditBody]) -> list[list[str]]:
    """Return the challenges that sites answered, the one that most of them know last; junk does not count."""
    ops = [
        {"op": "audits", "object": body.key.object_id, "version": body.key.version, "epoch": body.key.epoch}
        for body in bodies
    ]
    channels = context.channels(bodies[0].class_)
    sites = list(dict.fromkeys(site for body in bodies for site in body.points if site in channels))
    tasks = await settle(context.runtime, (channels[site].exchange(ops) for site in sites))
    told: list[dict[SiteId, list[str]]] = [{} for _ in bodies]
    for site, task in zip(sites, tasks, strict=True):
        error = failure(task)
        if isinstance(error, Exception) and not isinstance(error, ShosoinError):
            raise error
        results = [] if error is not None else task.result().results
        for place, result in zip(told, results, strict=False):
            words = str(result.get("answered", "")).split()
            if len(words) <= ANSWERS_PER_EPOCH and all(_is_challenge(word) for word in words):
                place[site] = words
    return [_trusted(context, body, each) for body, each in zip(bodies, told, strict=True)]


def _trusted(context: VaultContext, body: AuditBody, told: dict[SiteId, list[str]]) -> list[str]:
    """Return challenges that the home site knows, or more sites than may lie; the best known last."""
    counted = Counter(word for words in told.values() for word in set(words))
    liars_max = (body.scheme.n - body.scheme.k) // 2
    home = told.get(context.home, [])
    sound = [word for word, count in counted.items() if word in home or count > liars_max]
    return sorted(sound, key=lambda word: (counted[word], word))[-ANSWERS_PER_EPOCH:]


def _is_challenge(word: str) -> bool:
    return len(word) == 32 and not set(word) - set("0123456789abcdef")


async def keep_found(context: VaultContext, found: Sequence[AuditedBody], *, looked_up: bool, final: bool) -> None:
    """Write evidence, then the ledger, then tell: what the ledger calls audited has evidence.

    ``looked_up`` says that the register, not the ledger, told where the shares are; what is not ``final`` will be asked
    again and is no alarm yet.

    Raises:
        Unavailable: the evidence cannot be written.
    """
    if not found:
        return
    await context.runtime.in_thread(context.evidence.append, _entries(found, final=final))
    now_s = context.clock.wall_s()
    context.ledger.save(
        {
            each.body.name: replace(
                each.record,
                audited_wall_s=now_s if final else each.record.audited_wall_s,
                states=each.states,
                terms=each.body.terms(now_s) if looked_up and not each.body.part_of_index else each.record.terms,
            )
            for each in found
        }
    )
    for each in found if final else ():
        for event in events_of(each.body, each.states):
            context.sink.emit(event)


def _entries(found: Sequence[AuditedBody], *, final: bool) -> list[dict[str, object]]:
    """Return one entry for each placement: per body IDs, epoch, challenge, whether it was new, a letter per site."""
    groups: dict[tuple[str, tuple[SiteId, ...], int], list[list[object]]] = {}
    for each in found:
        body = each.body
        letters = "".join(_LETTERS[each.states[site]] for site in body.placement)
        row = [body.key.object_id, body.key.version, body.key.epoch, each.challenge, int(each.new), letters]
        groups.setdefault((body.class_, body.placement, body.scheme.k), []).append(row)
    return [
        {"kind": "audit", "class": class_, "sites": list(sites), "k": k, "final": final, "objects": rows}
        for (class_, sites, k), rows in groups.items()
    ]
