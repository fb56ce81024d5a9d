"""What can go wrong with Kafka: it takes nothing now (try again later), or it will never take this message."""

from __future__ import annotations


class KafkaFault(Exception):
    """Root of this package's errors."""


class KafkaUnavailable(KafkaFault):
    """No broker, no topic, no right, or somebody else writes in our place. Nothing of the batch is to be seen."""


class MessageTooLarge(KafkaFault):
    """One of the batch, or the batch as Kafka packs it, is larger than broker or topic allow. Nothing is to be seen."""
