"""`make soak`: the correctness proofs at their full size, for a night.

    make soak                                                   all of these, one after the other
    make soak ARGS="equivalence --steps 200000"                 the scripts against their definition
    make soak ARGS="interleavings --count 500000 --seed 7"      clients in a random order, audited
    make soak ARGS="kills --kills 100"                          API, daemon and Kafka under load, UsageBox on a bad day
    make soak ARGS="books"                                      an hour of real requests at 60 times its speed
    make soak ARGS="interleavings --seed 1513 --count 1"        one interleaving again

Every process has a Redis of its own. A failure is printed with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support")]

import books  # noqa: E402
import workers  # noqa: E402  (its folders are on the path only now)

from kafka_servers import has_kafka  # noqa: E402
from redis_servers import find_redis_servers, start_redis, stop  # noqa: E402

STEPS = 2_000_000
STEPS_PER_ROUND = 50_000
INTERLEAVINGS = 10_000_000
KILLS = 100
INTERLEAVINGS_PER_ROUND = 2_000
PROGRESS_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=list(PROOFS), help="all by default")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the equivalence state machine")
    parser.add_argument("--count", type=int, default=INTERLEAVINGS, help="of interleavings")
    parser.add_argument("--kills", type=int, default=KILLS, help="of each process, at each named point, and of Kafka")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of kills, at most; fewer may be made then")
    parser.add_argument("--seed", type=int, default=0, help="the first; others follow it")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--server", choices=sorted(find_redis_servers()), default=next(iter(find_redis_servers())))
    options = parser.parse_args()
    chosen = [PROOFS[options.what]] if options.what else PROOFS.values()
    held = [proof(options) for proof in chosen]
    return 0 if all(held) else 1


class Progress:
    """Says now and then how far it is, and in the end how long it took."""

    def __init__(self, what: str, whole: int) -> None:
        self.what, self.whole, self.done = what, whole, 0
        self._started = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self._told >= PROGRESS_SECONDS or self.done >= self.whole:
            self._told = time.monotonic()
            pace = self.done / (self._told - self._started)
            left_minutes = (self.whole - self.done) / pace / 60
            print(
                f"{self.done:,} of {self.whole:,} {self.what}, {pace:,.0f}/s, {left_minutes:.0f} min left", flush=True
            )

    def close(self, verdict: str) -> None:
        took = time.monotonic() - self._started
        print(f"{self.done:,} {self.what} in {took:,.0f} s: {verdict}", flush=True)


def soak_equivalence(options: argparse.Namespace) -> bool:
    """Rounds of the state machine, each with a seed of its own."""
    rounds = -(-options.steps // STEPS_PER_ROUND)
    progress, failures = Progress("steps against the definition", rounds * STEPS_PER_ROUND), 0
    with ThreadPoolExecutor(options.processes) as pool:
        for seed, output in pool.map(run_round, range(options.seed, options.seed + rounds)):
            if output is not None:
                failures += 1
                print(f"SEED {seed} FAILED: pytest tests/gate/test_equivalence.py --hypothesis-seed={seed}\n{output}")
            progress.advance(STEPS_PER_ROUND)
    progress.close("script and definition are equal" if not failures else f"{failures} seeds failed")
    return not failures


def run_round(seed: int) -> tuple[int, str | None]:
    """The seed, and what pytest said where it failed."""
    command = [sys.executable, "-m", "pytest", "-q", str(HERE.parent / "gate/test_equivalence.py")]
    environment = {**os.environ, "SPENDGATE_EQUIVALENCE_STEPS": str(STEPS_PER_ROUND)}
    ran = subprocess.run(
        [*command, f"--hypothesis-seed={seed}", "-p", "no:cacheprovider"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return seed, ran.stdout[-8_000:] if ran.returncode else None


def soak_interleavings(options: argparse.Namespace) -> bool:
    progress, failures = Progress("interleavings", options.count), 0
    with running_servers(options.server, options.processes) as urls:
        context = multiprocessing.get_context("spawn")
        places = context.SimpleQueue()
        for url in urls:
            places.put(url)
        end = options.seed + options.count
        rounds = [
            range(at, min(end, at + INTERLEAVINGS_PER_ROUND))
            for at in range(options.seed, end, INTERLEAVINGS_PER_ROUND)
        ]
        with context.Pool(options.processes, initializer=workers.connect, initargs=(places,)) as pool:
            for count, fault in pool.imap_unordered(workers.play, rounds):
                if fault is not None:
                    failures += 1
                    print(fault, flush=True)
                progress.advance(count)
    progress.close("0 units overspent, lost or counted twice" if not failures else f"{failures} rounds failed")
    return not failures


def soak_kills(options: argparse.Namespace) -> bool:
    progress = Progress("rounds of kills", options.kills)
    with running_servers(options.server, 1) as (url,):
        wrong = books.kill_again_and_again(url, options.seed, options.kills, options.minutes, progress.advance)
    books_of = "all three books and the topics" if has_kafka() else "all three books; there is no Kafka on this machine"
    progress.close(f"0 lost, 0 doubled, in {books_of}" if wrong is None else f"the books differ:\n{wrong}")
    return wrong is None


def soak_books(_options: argparse.Namespace) -> bool:
    wrong = books.replay_an_hour()
    print("an hour of requests: three equal books" if wrong is None else f"the books differ:\n{wrong}", flush=True)
    return wrong is None


@contextlib.contextmanager
def running_servers(server: str, count: int) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = []
        for _ in range(count):
            process, url = start_redis(find_redis_servers()[server], directory)
            stack.callback(stop, process)
            urls.append(url)
        yield urls


PROOFS = {
    "equivalence": soak_equivalence,
    "interleavings": soak_interleavings,
    "kills": soak_kills,
    "books": soak_books,
}

if __name__ == "__main__":
    sys.exit(main())
