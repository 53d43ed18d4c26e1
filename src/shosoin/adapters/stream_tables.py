"""The tables of a stream store in PostgreSQL, and the statements on them.

A block is kept in *pieces* of 32 granules, a row each, so that what is consumed leaves whole rows to be deleted and at
most two to be changed. Each block has a data key of its own, sealed, in a row of its own.
"""

from __future__ import annotations

__all__ = ["FORMAT", "PIECE_GRANULES", "statements", "tables", "upgrade"]

PIECE_GRANULES = 32
"""A piece with its checks is 1,280 bytes: below the size at which PostgreSQL moves values elsewhere."""

FORMAT = 2
"""Version of the tables."""

_TABLES = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE {schema}.format (version integer NOT NULL);
CREATE TABLE {schema}.pair (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kme text NOT NULL,
    peer text NOT NULL,
    token bigint NOT NULL DEFAULT 0,
    holder text NOT NULL DEFAULT '',
    held_until timestamptz NOT NULL DEFAULT '-infinity',
    UNIQUE (kme, peer)
);
CREATE TABLE {schema}.record (
    pair integer NOT NULL REFERENCES {schema}.pair,
    name text NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (pair, name)
);
CREATE TABLE {schema}.block (
    pair integer NOT NULL REFERENCES {schema}.pair,
    name text NOT NULL,
    key bytea NOT NULL,
    PRIMARY KEY (pair, name)
);
CREATE TABLE {schema}.piece (
    pair integer NOT NULL REFERENCES {schema}.pair,
    name text NOT NULL,
    number integer NOT NULL,
    cells bytea NOT NULL,
    checks bytea NOT NULL,
    PRIMARY KEY (pair, name, number)
);
INSERT INTO {schema}.format VALUES (1);
"""

_SINCE_2 = """
CREATE TABLE {schema}.copy (
    owner integer NOT NULL REFERENCES {schema}.pair,
    peer text NOT NULL,
    key_id text NOT NULL,
    slave text NOT NULL,
    master text NOT NULL,
    born_s double precision NOT NULL,
    length_bytes integer NOT NULL,
    named text NOT NULL,
    simulated boolean NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (owner, peer, key_id, slave)
);
CREATE TABLE {schema}.sent (
    owner integer NOT NULL REFERENCES {schema}.pair,
    key_id text NOT NULL,
    slave text NOT NULL,
    peer text NOT NULL,
    born_s double precision NOT NULL,
    PRIMARY KEY (owner, key_id, slave)
);
CREATE TABLE {schema}.used (
    pair integer NOT NULL REFERENCES {schema}.pair,
    ticket bytea NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (pair, ticket)
);
CREATE INDEX ON {schema}.used (pair, number);
CREATE TABLE {schema}.mark (
    pair integer NOT NULL REFERENCES {schema}.pair,
    stream text NOT NULL,
    below bigint NOT NULL,
    turn bigint NOT NULL,
    PRIMARY KEY (pair, stream)
);
CREATE INDEX ON {schema}.mark (pair, turn);
CREATE TABLE {schema}.ended (
    pair integer NOT NULL REFERENCES {schema}.pair,
    place integer NOT NULL,
    bits bytea NOT NULL,
    PRIMARY KEY (pair, place)
);
UPDATE {schema}.format SET version = 2;
"""


def tables(schema: str) -> bytes:
    """Return what makes the tables in a schema whose name was checked: parameters cannot stand for names."""
    return (_TABLES + _SINCE_2).format(schema=schema).encode()


def upgrade(schema: str, version: int) -> bytes:
    """Return what brings the tables of an earlier version to the present one."""
    return {1: _SINCE_2}[version].format(schema=schema).encode()


def statements(schema: str) -> dict[str, bytes]:
    """Return the statements on those tables by name."""
    return {name: text.format(schema=schema).encode() for name, text in _STATEMENTS.items()}


_STATEMENTS = {
    # %b asks for a value in binary form.
    # Not to_regclass: after the wait for another process it may still remember that there were none.
    "has_tables": "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables"
    " WHERE schemaname = '{schema}' AND tablename = 'format')",
    "has_copies": "SELECT to_regclass('{schema}.copy') IS NOT NULL",
    "lock_tables": "SELECT pg_advisory_xact_lock(hashtext('shosoin {schema}'), 0)",
    "format": "SELECT version FROM {schema}.format",
    "make_pair": "INSERT INTO {schema}.pair (kme, peer) VALUES (%s, %s) ON CONFLICT DO NOTHING",
    "find_pair": "SELECT id FROM {schema}.pair WHERE kme = %s AND peer = %s",
    "lock": "SELECT pg_try_advisory_lock(hashtext('shosoin {schema}'), %s)",
    "holder": "SELECT holder, held_until < clock_timestamp() FROM {schema}.pair WHERE id = %s",
    "end_holder": "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = hashtext('shosoin {schema}')::bigint::bit(32)::bigint AND objid = %s"
    " AND EXISTS (SELECT FROM {schema}.pair WHERE id = %s AND held_until < clock_timestamp())",
    "take": "UPDATE {schema}.pair SET token = token + 1, holder = %s,"
    " held_until = clock_timestamp() + %s * interval '1 second' WHERE id = %s RETURNING token",
    "hold": "UPDATE {schema}.pair SET held_until = clock_timestamp() + %s * interval '1 second'"
    " WHERE id = %s AND token = %s",
    "let_go": "UPDATE {schema}.pair SET held_until = '-infinity' WHERE id = %s AND token = %s",
    "records": "SELECT name, value FROM {schema}.record WHERE pair = %s",
    "put_record": "INSERT INTO {schema}.record VALUES (%s, %s, %b)"
    " ON CONFLICT (pair, name) DO UPDATE SET value = EXCLUDED.value",
    "delete_record": "DELETE FROM {schema}.record WHERE pair = %s AND name = %s",
    "blocks": "SELECT name FROM {schema}.block WHERE pair = %s"
    " UNION SELECT DISTINCT name FROM {schema}.piece WHERE pair = %s",
    "put_block": "INSERT INTO {schema}.block VALUES (%s, %s, %b)"
    " ON CONFLICT (pair, name) DO UPDATE SET key = EXCLUDED.key",
    "copy_pieces": "COPY {schema}.piece FROM STDIN (FORMAT BINARY)",
    "delete_block": "DELETE FROM {schema}.block WHERE pair = %s AND name = %s",
    "delete_pieces": "DELETE FROM {schema}.piece WHERE pair = %s AND name = %s",
    "delete_some_pieces": "DELETE FROM {schema}.piece WHERE pair = %s AND name = %s AND number BETWEEN %s AND %s",
    "wipe_piece": "UPDATE {schema}.piece SET cells = overlay(cells PLACING %b FROM %s),"
    " checks = overlay(checks PLACING %b FROM %s) WHERE pair = %s AND name = %s AND number = %s",
    "block_key": "SELECT pair.token, block.key FROM {schema}.pair LEFT JOIN {schema}.block"
    " ON block.pair = pair.id AND block.name = %s WHERE pair.id = %s",
    "block_keys": "SELECT name, key FROM {schema}.block WHERE pair = %s",
    "peers": "SELECT peer FROM {schema}.pair WHERE kme = %s"
    " AND EXISTS (SELECT FROM {schema}.record WHERE record.pair = pair.id) ORDER BY peer",
    "discard_pieces": "DELETE FROM {schema}.piece USING {schema}.pair"
    " WHERE piece.pair = pair.id AND pair.kme = %s AND pair.peer = %s",
    "discard_blocks": "DELETE FROM {schema}.block USING {schema}.pair"
    " WHERE block.pair = pair.id AND pair.kme = %s AND pair.peer = %s",
    "discard_records": "DELETE FROM {schema}.record USING {schema}.pair"
    " WHERE record.pair = pair.id AND pair.kme = %s AND pair.peer = %s",
    "mark_discarded": "INSERT INTO {schema}.record (pair, name, value)"
    " SELECT id, %s, '' FROM {schema}.pair WHERE kme = %s AND peer = %s",
    # Multicast copies
    "copies": "SELECT key_id, slave, master, peer, born_s, length_bytes, named, simulated, sealed FROM {schema}.copy"
    " WHERE owner = %s",
    "copy_index": "SELECT key_id, slave, master, peer, born_s, length_bytes, named, simulated FROM {schema}.copy"
    " WHERE owner = %s",
    "add_copy": "INSERT INTO {schema}.copy (owner, key_id, slave, master, peer, born_s, length_bytes, named,"
    " simulated, sealed) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %b) ON CONFLICT DO NOTHING",
    "take_copy": "DELETE FROM {schema}.copy WHERE owner = %s AND peer = %s AND key_id = %s AND slave = %s"
    " RETURNING sealed",
    "reseal_copy": "UPDATE {schema}.copy SET sealed = %b WHERE owner = %s AND peer = %s AND key_id = %s AND slave = %s",
    "add_sent": "INSERT INTO {schema}.sent (owner, key_id, slave, peer, born_s) VALUES (%s, %s, %s, %s, %s)",
    "sent_to": "SELECT DISTINCT peer FROM {schema}.sent WHERE owner = %s AND key_id = ANY(%s)",
    "count_sent": "SELECT count(*) FROM {schema}.sent"
    " WHERE owner = %s AND slave = %s AND peer = %s AND key_id = ANY(%s)",
    "take_sent": "DELETE FROM {schema}.sent WHERE owner = %s AND slave = %s AND peer = %s AND key_id = ANY(%s)",
    "redate_copies": "UPDATE {schema}.copy SET born_s = %s WHERE owner = %s AND born_s > %s",
    "redate_sent": "UPDATE {schema}.sent SET born_s = %s WHERE owner = %s AND born_s > %s",
    "expire_copies": "DELETE FROM {schema}.copy WHERE owner = %s AND born_s < %s",
    "expire_sent": "DELETE FROM {schema}.sent WHERE owner = %s AND born_s < %s",
    "burn_copies": "DELETE FROM {schema}.copy WHERE owner = %s AND peer = %s",
    "burn_sent": "DELETE FROM {schema}.sent WHERE owner = %s"
    " AND key_id IN (SELECT key_id FROM {schema}.sent WHERE owner = %s AND peer = %s)",
    "count_copies": "SELECT (SELECT count(*) FROM {schema}.copy JOIN {schema}.pair ON owner = id"
    " WHERE kme = %s AND pair.peer = %s)"
    " + (SELECT count(*) FROM {schema}.sent JOIN {schema}.pair ON owner = id WHERE kme = %s AND pair.peer = %s)",
    "discard_copies": "DELETE FROM {schema}.copy WHERE owner = %s",
    "discard_sent": "DELETE FROM {schema}.sent WHERE owner = %s",
    # What was used of key sources
    "newest_ticket": "SELECT coalesce(max(number), 0) FROM {schema}.used WHERE pair = %s",
    "add_ticket": "INSERT INTO {schema}.used (pair, ticket, number) VALUES (%s, %b, %s) ON CONFLICT DO NOTHING",
    "forget_tickets": "DELETE FROM {schema}.used WHERE pair = %s AND number <= %s",
    "mark": "SELECT below FROM {schema}.mark WHERE pair = %s AND stream = %s",
    "count_marks": "SELECT count(*) FROM {schema}.mark WHERE pair = %s",
    "latest_turn": "SELECT coalesce(max(turn), 0) FROM {schema}.mark WHERE pair = %s",
    "put_mark": "INSERT INTO {schema}.mark (pair, stream, below, turn) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT (pair, stream) DO UPDATE SET below = greatest(mark.below, EXCLUDED.below), turn = EXCLUDED.turn",
    "oldest_marks": "SELECT stream FROM {schema}.mark WHERE pair = %s ORDER BY turn LIMIT %s",
    "delete_mark": "DELETE FROM {schema}.mark WHERE pair = %s AND stream = %s",
    "ended": "SELECT bits FROM {schema}.ended WHERE pair = %s AND place = %s",
    "put_ended": "INSERT INTO {schema}.ended (pair, place, bits) VALUES (%s, %s, %b)"
    " ON CONFLICT (pair, place) DO UPDATE SET bits = EXCLUDED.bits",
    "pieces": "SELECT number, cells, checks FROM {schema}.piece WHERE pair = %s AND name = %s",
}
