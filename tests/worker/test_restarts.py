from ww_callbacks.worker.restarts import MAX_CRASHES, MAX_DELAY, MIN_DELAY, RestartPolicy


def test_delay_grows_until_a_result():
    policy = RestartPolicy()
    delays = [policy.delay]
    for _ in range(8):
        policy.record_crash("x")
        delays.append(policy.delay)
    assert delays[:3] == [0.0, MIN_DELAY, 4 * MIN_DELAY]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY
    policy.record_result("fc")
    assert policy.delay == 0.0


def test_layer_with_two_crashes_is_skipped_and_others_continue():
    policy = RestartPolicy()
    for _ in range(2):
        policy.record_crash("killed", "bad")
        policy.record_result("good")
    for _ in range(5):
        assert policy.skip_reason("bad").startswith("skipped: the worker crashed on it twice")
        assert policy.skip_reason("good") == ""
    assert policy.broken == ""


def test_restarts_end_if_every_layer_crashes():
    policy = RestartPolicy()
    for _ in range(MAX_CRASHES):
        if not policy.skip_reason("only"):
            policy.record_crash("killed", "only")
    assert f"{MAX_CRASHES} times in a row" in policy.broken
