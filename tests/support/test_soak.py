"""The soak's own judgement; the soak itself is `make soak`."""

from collections import Counter
from pathlib import Path

from support.resources import Usage
from support.scripts import load_script
from support.traffic import Outcome, Tally

SOAK = load_script(Path(__file__).parents[1] / "server" / "soak.py")


def tally(**outcomes: int) -> Tally:
    counted = Counter({Outcome(name): count for name, count in outcomes.items()})
    return Tally(sent=sum(outcomes.values()), outcomes=counted, num_tokens=100)


ALL = {"answered": 5, "refused": 2, "cancelled": 1, "expired": 1}


def failed(checks) -> list[str]:
    return [check.name for check in checks if not check.passed]


def test_what_adds_up_passes_and_what_is_lost_or_failed_does_not():
    assert failed(SOAK.checks_of_load(tally(**ALL))) == []
    lost, broken = tally(**ALL), tally(**ALL)
    lost.sent += 1
    broken.failures.append("text: Internal()")
    assert failed(SOAK.checks_of_load(lost)) == ["sent = answered + refused + cancelled + expired"]
    assert failed(SOAK.checks_of_load(broken)) == ["no error that was not provoked"]
    assert failed(SOAK.checks_of_load(tally(answered=3))) == ["every outcome came"]


def test_counters_that_do_not_agree_fail():
    before = dict.fromkeys([SOAK.SUCCEEDED, SOAK.FAILED, SOAK.GENERATED, *SOAK.GAUGES], 0.0)
    after = before | {SOAK.SUCCEEDED: 7.0, SOAK.FAILED: 1.0, SOAK.GENERATED: 120.0}
    assert failed(SOAK.checks_of_counters(tally(**ALL), before, after)) == []
    too_few, too_many, none_failed = {SOAK.SUCCEEDED: 3.0}, {SOAK.SUCCEEDED: 30.0}, {SOAK.FAILED: 0.0}
    for wrong in (too_few, too_many, none_failed, {SOAK.GENERATED: 99.0}, {SOAK.GAUGES[0]: 1.0}):
        assert len(failed(SOAK.checks_of_counters(tally(**ALL), before, after | wrong))) == 1


def test_memory_that_grows_after_the_warm_up_fails():
    def usages(bytes_a_second: float) -> list[Usage]:
        return [
            Usage(
                at_seconds=float(second),
                # Large and level but for the noise; the beginning does not count.
                resident_bytes=int(2e9 + bytes_a_second * second + 1e6 * (second % 3)) if second > 100 else 10**8,
                shared_bytes=10**7,
                ring_bytes=10**6,
                num_processes=8,
                num_threads=90,
                num_files=300,
            )
            for second in range(600)
        ]

    assert failed(SOAK.checks_of_growth(usages(0))) == []
    assert failed(SOAK.checks_of_growth(usages(400_000))) == ["resident_bytes grows by no more than 4%"]
