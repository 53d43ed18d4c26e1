"""Defects that a hostile review found and that are still open, in one list.

Each of these tests states what must hold and fails today; strict, so that mending one fails the run until its line is
taken out here.
"""

from __future__ import annotations

import pytest

OPEN = {
    "test_e01_one_caller_cannot_take_all_memory_for_request_bodies": "bodies are bounded each, not per caller",
    "test_e02_one_sae_cannot_take_all_connections_of_a_kme": "connections are bounded in all, not per SAE",
    "test_e03_one_peers_alarms_do_not_hide_another_pairs_alarm": "log rate limit is shared by all peers",
    "test_e04_a_new_quantum_channel_ends_the_old_one": "the old simulated channel lingers",
    "test_e05_a_peer_that_reads_nothing_does_not_keep_the_pair_from_a_new_channel": "writes have no deadline",
    "test_e08_one_unusable_link_directory_does_not_stop_the_whole_kme": "the KME refuses to start",
    "test_r01_a_restored_sender_never_signs_two_contents_under_one_verification_key": "READY after a restored copy",
    "test_r02_the_largest_hello_that_a_configuration_permits_is_accepted": "HELLO lists every block",
    "test_r03_lost_connections_do_not_use_up_the_verification_pool": "a lost block costs an entry",
    "test_r03b_a_receiver_in_a_crash_loop_does_not_use_up_the_verification_pool": "likewise",
    "test_r03c_an_exhausted_pool_is_reported": "no event tells of it",
    "test_r04_bits_that_a_crash_burned_are_overwritten": "burned, but left on disk until the block goes",
    "test_r05_a_local_key_id_named_twice_in_two_spellings_is_400_and_burns_nothing": "local pair: IDs not normalised",
    "test_r05b_an_expired_local_key_is_not_served_and_not_kept": "local pair: no expiry",
    "test_r05c_one_sae_cannot_take_all_the_room_for_local_keys": "local pair: no share per SAE",
    "test_r06_a_quota_counts_what_a_key_takes_from_the_stream": "a short key counts its length, not its granule",
    "test_r07_recording_a_lease_costs_the_same_however_keys_were_fetched": "the record grows with gaps",
    "test_r08_neighbouring_fetches_are_overwritten_together": "one overwrite per fetch",
    "test_r10_forged_messages_can_only_burn_bits": "HELLO rests on TLS alone",
    "test_s01_an_old_copy_of_the_records_of_the_same_run_does_not_erase_newer_shares": "share store start-up",
    "test_s02_a_client_that_hangs_up_is_no_defect_of_the_kme": "logged as a defect",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect exactly the open ones to fail."""
    for item in items:
        reason = OPEN.get(getattr(item, "originalname", item.name))
        if reason is not None and "tests/review" in item.path.as_posix():
            item.add_marker(pytest.mark.xfail(strict=True, reason=f"open: {reason}"))
