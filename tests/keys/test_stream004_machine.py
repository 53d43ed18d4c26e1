"""An ETSI GS QKD 004 stream at its home under any order of calls: what each side had, and what is left of it."""

from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shosoin.base import SaeId
from shosoin.keys.stream004 import CallRefused, Chunk, HomeStream
from shosoin.keys.wire004 import Qos

WINDOW, TTL_S = 4, 10
POSITIONS = st.integers(0, 12)


class StreamMachine(RuleBasedStateMachine):
    """Calls at random. Bits are numbers that were never drawn before; memory is what was charged and not given back."""

    def __init__(self):
        super().__init__()
        self.stream = HomeStream(UUID(int=1), SaeId("near"), SaeId("far"), Qos(32, ttl_s=TTL_S), WINDOW, 0.0)
        self.stream.near_open = self.stream.far_open = True
        self.now_s = 0.0
        self.drawn: dict[int, tuple[str, float]] = {}
        self.serial = 0
        self.charged: set[str] = set()
        self.near: dict[int, bytes] = {}
        self.far: dict[int, str] = {}
        self.burned: set[str] = set()

    def reserve(self, position):
        if self.stream.chunk(position) is not None:
            return True
        try:
            self.stream.check_new(position)
        except CallRefused:
            return False
        assert position not in self.drawn, "a chunk was drawn twice"
        self.serial += 1
        key_id, bits = f"id-{self.serial}", bytearray(self.serial.to_bytes(32))
        self.charged.add(key_id)
        self.stream.add(position, Chunk(key_id, self.now_s, bits, lambda: self.charged.discard(key_id)))
        self.drawn[position] = key_id, self.now_s
        return True

    @rule(position=POSITIONS)
    def near_asks(self, position):
        if not self.stream.near_open or self.stream.had.has(position) or not self.reserve(position):
            return
        bits = bytes(self.stream.take(position, self.now_s))
        assert position not in self.near, "near had a chunk twice"
        assert f"id-{int.from_bytes(bits)}" == self.drawn[position][0], "near has other bits"
        self.near[position] = bits

    @rule(position=POSITIONS)
    def far_asks(self, position):
        if not self.stream.far_open or not self.reserve(position):
            return
        chunk = self.stream.tell(position, self.now_s)
        assert chunk.key_id == self.drawn[position][0], "far is told another key"
        assert chunk.key_id not in self.burned, "a key is told that was burned"
        self.far[position] = chunk.key_id

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds):
        self.now_s += seconds
        self.burn(self.stream.expire(self.now_s))

    @rule()
    def near_closes(self):
        self.stream.close_near()

    @rule()
    def far_closes(self):
        self.burn(self.stream.close_far())

    @rule()
    def ends(self):
        self.burn(self.stream.end())
        assert not self.charged
        told_or_burned = set(self.far.values()) | self.burned
        assert {key_id for key_id, _ in self.drawn.values()} <= told_or_burned, "a key is forgotten at far's KME"

    def burn(self, key_ids):
        for key_id in key_ids:
            assert key_id not in self.burned
            assert key_id not in self.far.values(), "a key is burned that far was told"
            self.burned.add(key_id)

    @invariant()
    def what_is_held_is_bounded_and_young(self):
        chunks = self.stream._chunks
        waiting = [chunk for chunk in chunks.values() if not chunk.settled]
        assert self.stream._waiting == len(waiting) <= WINDOW
        assert self.charged == {chunk.key_id for chunk in chunks.values() if chunk.bits}
        assert all(self.now_s - chunk.drawn_s <= TTL_S for chunk in chunks.values())


TestStream = StreamMachine.TestCase
TestStream.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
