"""A file that is on disk before anybody is answered. One process at a time: it is locked while open.

Entries that several threads append at once are written and synced together, by whichever comes first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec

from spendgate.errors import GateUnavailable
from spendgate.outage.entries import Entry, KeptCounter, Opened, entries_of, frame_of

MAX_JOURNALS = 4096
COMPACTED_ABOVE_BYTES = 1_000_000


class Journal:
    """`name` is the journal's for good, whoever has it open; `entries` is what it held when it was opened."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        raw = path.read_bytes() if path.exists() else b""
        try:
            found = list(entries_of(raw))
        except msgspec.MsgspecError as exc:
            raise OSError(errno.EINVAL, f"a journal holds what this version does not know ({exc})", str(path)) from exc
        self.entries: Sequence[Entry] = [entry for _, entry in found]
        first = self.entries[0] if self.entries else None
        self.name = first.journal if isinstance(first, Opened) else secrets.token_hex(8)
        self._size = found[-1][0] if found else 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.ftruncate(self._file, self._size)
            if not found:
                _write_whole(self._file, frame_of(Opened(self.name, 0, ())))
                os.fsync(self._file)
                _sync_folder(path.parent)
        except OSError:
            os.close(self._file)
            raise
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._waiting: list[tuple[bytes, Future[None]]] = []
        self._closing = False
        _open.add(self)
        self._writer = threading.Thread(target=self._write, name="spendgate-journal", daemon=True)
        self._writer.start()

    @classmethod
    def open_free(cls, folder: Path) -> Journal:
        """The first journal of the folder that no living process has open, or a new one. Raises OSError naming the folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for number in range(1, MAX_JOURNALS + 1):
                journal = cls.open_numbered(folder, number)
                if journal is not None:
                    return journal
        except OSError as exc:
            raise OSError(exc.errno, f"no journal of outages can be kept there: {exc}", str(folder)) from exc
        raise OSError(errno.EBUSY, f"all {MAX_JOURNALS} journals of outages there are in use", str(folder))

    @classmethod
    def open_numbered(cls, folder: Path, number: int) -> Journal | None:
        """None when a living process has it open. Raises OSError."""
        lock = os.open(folder / f"{number:04d}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        try:
            return cls(folder / f"{number:04d}.journal", lock)
        except OSError:
            os.close(lock)
            raise

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._size

    def append(self, entry: Entry) -> Future[None]:
        """Done when the entry is on disk; fails with GateUnavailable when it can't be written."""
        done: Future[None] = Future()
        with self._changed:
            if self._closing:
                done.set_exception(GateUnavailable("the journal is closed", "unknown"))
                return done
            self._waiting.append((frame_of(entry), done))
            self._changed.notify()
        return done

    def compact(self, sequence: int, counters: Iterable[KeptCounter]) -> None:
        """Replace the file by what is still of use. Nothing may be appended meanwhile. Raises OSError, and the file stays."""
        frame = frame_of(Opened(self.name, sequence, tuple(counters)))
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_whole(file, frame)
            os.fsync(file)
            with self._writing:
                fresh.replace(self._path)
                file, self._file, self._size = self._file, file, len(frame)
                _sync_folder(self._path.parent)
        finally:
            os.close(file)

    def close(self) -> None:
        """Write what waits and let the next process have it. Idempotent."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
        self._writer.join()
        _open.discard(self)
        self.let_go()

    def let_go(self) -> None:
        """Without a word: for a forked child, whose copies would keep the journal locked after its parent's end."""
        os.close(self._file)
        os.close(self._lock)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                batch, self._waiting = self._waiting, []
            problem = self._write_batch(b"".join(frame for frame, _ in batch))
            for _, done in batch:
                if problem is None:
                    done.set_result(None)
                else:
                    done.set_exception(problem)

    def _write_batch(self, raw: bytes) -> GateUnavailable | None:
        with self._writing:
            try:
                _write_whole(self._file, raw)
                os.fsync(self._file)
            except OSError as exc:
                # A frame that is half there would hide all that follow.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                return GateUnavailable(f"the journal {self._path} can't be written: {exc.strerror}", "unknown")
            self._size += len(raw)
        return None


_open: weakref.WeakSet[Journal] = weakref.WeakSet()


def _forked() -> None:
    for journal in list(_open):
        journal.let_go()
    _open.clear()


os.register_at_fork(after_in_child=_forked)


def _write_whole(file: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
