"""Two APIs and two daemons are killed again and again while UsageBox has a bad day and Kafka goes away: nothing is lost,
nothing doubled, in no book and no topic."""

from __future__ import annotations

import pytest

from kafka_servers import has_kafka
from kill_site import KillSite
from requirements import require
from topic_books import TopicBooks


@pytest.mark.timeout(400)
def test_killed_processes_a_bad_usagebox_and_a_kafka_that_goes_leave_equal_books(redis_url, tmp_path, gate, run):
    site = KillSite(tmp_path, redis_url, seed=7, share=0.3, kafka=has_kafka(), pause_seconds=0.05)
    with site.running():
        with site.load():
            site.hurt(politely=False)
        site.settle()
        assert site.front.met["taken_unanswered"] > 0
        for customer in site.customers:
            (limit,) = run(gate.snapshot(customer)).limits()
            books = (limit.used, site.recorded(customer), site.billed(customer))
            assert books == (site.sent[customer],) * 3, customer
        assert site.store.decisions.mismatches() == 0
        assert site.false_alarms() == []
        # So far it needs no Kafka.
        require("Kafka (fetch_servers.py) or Java", found=site.broker is not None)
        topics = TopicBooks(site.broker.address)
        assert topics.faults(site.store) == []
        assert topics.used() == {(each, "tokens"): site.sent[each] for each in site.customers}
        assert topics.broken() > 0, "a transaction was left half done, and nobody saw it"
