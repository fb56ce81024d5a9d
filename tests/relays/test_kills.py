"""Two APIs and two daemons are killed again and again while UsageBox has a bad day: nothing is lost, nothing doubled, in no book."""

from __future__ import annotations

import pytest

from kill_site import KillSite


@pytest.mark.timeout(400)
def test_killed_processes_and_a_bad_usagebox_leave_equal_books(redis_url, tmp_path, gate, run):
    site = KillSite(tmp_path, redis_url, seed=7, share=0.3)
    with site.running():
        with site.load():
            for part in ("daemon", "api"):
                site.kill(part)
            site.kill_after_sending()
        site.settle()
        assert site.front.met["taken_unanswered"] > 0
        for customer in site.customers:
            (limit,) = run(gate.snapshot(customer)).limits()
            books = (limit.used, site.recorded(customer), site.billed(customer))
            assert books == (site.sent[customer],) * 3, customer
        assert site.store.decisions.mismatches() == 0
