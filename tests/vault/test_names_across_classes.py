"""One name in the indexes of several classes: which object has it, whoever writes meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shosoin.base import ObjectId, VersionId
from shosoin.vault.names import Names
from shosoin.vault.putting import BytesSource
from tests.vault.support import make_world


@pytest.mark.any_kernels
@pytest.mark.parametrize("deleted", [False, True])
async def test_what_happens_to_an_object_never_takes_back_a_name_that_went_to_another(deleted: bool) -> None:
    world = make_world()
    for number in range(4):
        name = f"a{number}"
        first = await world.vault.put(BytesSource(b"first"), name, class_="its")
        fast, slow = Names(world.another_vault().context), Names(world.another_vault().context)
        await fast.load()
        await world.vault.put(BytesSource(b"more"), f"b{number}", class_="its")  # raises numbers, unknown to ``fast``
        entry = (await slow.load())[name]
        lower = ObjectId.from_bytes(bytes(15) + bytes([number + 1]))  # loses every tie
        moved = replace(entry, object_id=lower, class_="qkd")
        assert await fast.commit("qkd", [moved], {name: first.object_id})
        late = replace(entry, version=VersionId.from_bytes(bytes(16)), counter=entry.counter + 1, deleted=deleted)
        assert await slow.commit("its", [late], {name: first.object_id})
        for names in (slow, fast, Names(world.another_vault().context)):
            assert (await names.load())[name].object_id == lower
