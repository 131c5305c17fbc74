"""Where built engines live on this machine, each found by what it was built from and how.

::

    <key>/engine.plan|model.onnx   the engine
    <key>/engine.json              its sidecar, with what was measured of it
    graphs/<sha256>.json           what was measured of a prepared graph that is run as it is
    timing/<name>.cache            what TensorRT measured while it built, to build the next engine sooner
    locks/<key>.lock               held while an engine is built

An engine's folder appears at once, with all that is in it. Two processes may use one store: the second to ask
for an engine waits for the first one's build and takes it. Reading needs no write access and touches no GPU.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import TypeAdapter, ValidationError

from foveate.engines.atomic_files import hold_lock, partial_name, write_file, write_folder
from foveate.engines.engine_profile import EngineProfile, RunConditions
from foveate.engines.engine_record import EngineRecord, EngineUse
from foveate.engines.errors import EngineError, PlanMismatch

__all__ = ["BuiltEngine", "EngineStore"]

_SIDECAR = "engine.json"
_PROFILES = TypeAdapter(tuple[EngineProfile, ...])
_KEY = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"\.([0-9a-f]{64})\.\d+\.[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in the store."""

    path: Path
    """The plan, or the ONNX file."""
    record: EngineRecord

    @property
    def key(self) -> str:
        return self.record.key


class EngineStore:
    """A folder of built engines. Making one touches no disk."""

    def __init__(self, root: Path | None = None) -> None:
        """`root` defaults to ``engines`` in the user's cache folder for foveate."""
        self.root = root or platformdirs.user_cache_path("foveate") / "engines"

    def find(self, key: str) -> BuiltEngine | None:
        """The engine of a key, or None. Cheap: its size is compared, not its content."""
        record = _read_record(self._folder(key) / _SIDECAR)
        if record is None or record.key != key:
            return None
        path = self._folder(key) / record.file_name
        try:
            whole = path.stat().st_size == record.engine_bytes
        except OSError:
            return None
        return BuiltEngine(path, record) if whole else None

    def find_or_build(
        self, key: str, build: Callable[[], tuple[bytes, EngineRecord]], *, force: bool = False
    ) -> BuiltEngine:
        """The engine of a key, built if it is not there; `force` builds it anyway and replaces it.

        Of several processes that want one engine, one builds and the others wait for it.
        Raises: what `build` raises, EngineError if the store cannot be written.
        """
        found = None if force else self.find(key)
        if found is not None:
            return found
        with self._locked(key):
            found = None if force else self.find(key)  # another process may have built it while this one waited
            return self._add(key, *build()) if found is None else found

    def open_engine(self, key: str, use: EngineUse) -> BuiltEngine:
        """The engine of a key, after all was checked that can be without its library or its device.

        Raises: PlanMismatch naming what does not fit: the ONNX graph, the library's version, the compute
        capability, the batch, or the file itself.
        """
        sidecar = self._folder(key) / _SIDECAR
        record = _read_record(sidecar)
        if record is None or record.key != key:
            raise PlanMismatch(f"there is no engine {key[:12]} in {self.root}, or its {_SIDECAR} is damaged: build it")
        use.require_fit(record)
        path = sidecar.with_name(record.file_name)
        _require_whole(path, record)
        return BuiltEngine(path, record)

    def engines(self, source_sha256: str | None = None) -> list[BuiltEngine]:
        """The engines of a prepared graph, or all of them; the newest first."""
        found = [self.find(path.name) for path in self._children() if _KEY.fullmatch(path.name)]
        kept = [each for each in found if each and source_sha256 in (None, each.record.source_sha256)]
        return sorted(kept, key=lambda each: each.record.built_at, reverse=True)

    def resolve(self, prefix: str) -> BuiltEngine:
        """The one engine whose key begins with a few digits. Raises: EngineError if there is none, or several."""
        found = [each for each in self.engines() if prefix and each.key.startswith(prefix)]
        if len(found) != 1:
            raise EngineError(
                f"{len(found) or 'no'} engines in {self.root} have a key that begins with {prefix!r}: "
                "`foveate engines list` shows them"
            )
        return found[0]

    def annotate(self, key: str, *, accuracy: dict[str, Any]) -> BuiltEngine:
        """Write into an engine's sidecar how far it agrees with its graph.

        Raises: EngineError if the engine is not there or the store cannot be written.
        """
        with self._locked(key):
            found = self.find(key)
            if found is None:
                raise EngineError(f"there is no engine {key[:12]} in {self.root}: build it first")
            return self._replace_record(found, accuracy=accuracy)

    def profiles(self, key: str) -> tuple[EngineProfile, ...]:
        """What was measured of an engine, or of a prepared graph by its sha256; the newest first."""
        built = self.find(key)
        return built.record.profiles if built else _read_profiles(self._graph_path(key))

    def find_profile(self, key: str, conditions: RunConditions, max_batch: int) -> EngineProfile | None:
        """The newest profile that holds under these conditions for batches up to this size, or None."""
        return next((each for each in self.profiles(key) if each.holds_for(conditions, max_batch)), None)

    def add_profile(self, key: str, profile: EngineProfile) -> None:
        """Keep what was measured of an engine, or of a prepared graph by its sha256.

        It takes the place of what it repeats: the same conditions, up to batches no larger.
        Raises: EngineError if the store cannot be written.
        """
        with self._locked(key):
            others = [each for each in self.profiles(key) if not profile.holds_for(each.conditions, each.max_batch)]
            profiles = (profile, *others)
            built = self.find(key)
            if built:
                self._replace_record(built, profiles=profiles)
            else:
                with self._disk_errors():
                    write_file(self._graph_path(key), _PROFILES.dump_json(profiles, indent=2) + b"\n")

    def _replace_record(self, built: BuiltEngine, **changes: Any) -> BuiltEngine:
        record = built.record.model_copy(update=changes)
        with self._disk_errors():
            write_file(built.path.with_name(_SIDECAR), _sidecar(record))
        return BuiltEngine(built.path, record)

    def remove(self, key: str) -> None:
        """Delete an engine, if it is there; one that is open stays usable. Raises: EngineError."""
        with self._locked(key), self._disk_errors():
            self._delete(self._folder(key))

    def clean(self, *, dry_run: bool = False) -> list[Path]:
        """Delete damaged engines and what broken-off builds left, and name them; `dry_run` only names them.

        Raises: EngineError if the store cannot be written.
        """
        gone = []
        for path in self._children():
            match = _KEY.fullmatch(path.name) or _PARTIAL.fullmatch(path.name)
            key = match[match.re.groups] if match else ""
            if not key or (path.name == key and self.find(key) is not None):
                continue
            with self._disk_errors(), hold_lock(self._lock_path(key), wait=False) as alone:
                # Whoever holds the lock is building: what looks broken is being written.
                if alone and (path.name != key or self.find(key) is None):
                    gone.append(path)
                    if not dry_run:
                        self._delete(path)
        return gone

    def read_timing_cache(self, name: str) -> bytes:
        """What `write_timing_cache` kept under a name; empty if there is nothing."""
        try:
            return self._timing_path(name).read_bytes()
        except OSError:
            return b""

    def write_timing_cache(self, name: str, content: bytes) -> None:
        """Keep a timing cache, replacing an older one. Raises: EngineError if the store cannot be written."""
        with self._disk_errors():
            write_file(self._timing_path(name), content)

    def _add(self, key: str, content: bytes, record: EngineRecord) -> BuiltEngine:
        folder = self._folder(key)
        with self._disk_errors():
            write_folder(folder, {record.file_name: content, _SIDECAR: _sidecar(record)})
        return BuiltEngine(folder / record.file_name, record)

    def _delete(self, folder: Path) -> None:
        """Out of sight first, so that nobody finds half of it."""
        hidden = partial_name(folder) if _KEY.fullmatch(folder.name) else folder
        if folder.exists():
            folder.rename(hidden)
            shutil.rmtree(hidden)

    def _children(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if path.is_dir())
        except OSError:
            return []

    def _folder(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise EngineError(f"an engine's key is 64 lower-case hex digits, not {key!r}")
        return self.root / key

    def _graph_path(self, sha256: str) -> Path:
        return self.root / "graphs" / f"{self._folder(sha256).name}.json"

    def _lock_path(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def _timing_path(self, name: str) -> Path:
        return self.root / "timing" / f"{name}.cache"

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with ExitStack() as stack:
            with self._disk_errors():  # those of the lock alone: what runs under it has errors of its own
                stack.enter_context(hold_lock(self._lock_path(key)))
            yield

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineError(
                f"cannot write to the engine store {self.root} ({error.strerror or error}): "
                "make room or make it writable, or name another folder"
            ) from error


def _require_whole(path: Path, record: EngineRecord) -> None:
    rebuild = f"delete it with `foveate engines prune` and build it again with `foveate build {record.name}`"
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size != record.engine_bytes:
                raise PlanMismatch(f"{path} has {size} bytes, {record.engine_bytes} were written: {rebuild}")
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PlanMismatch(f"cannot read the engine {path} ({error.strerror}): {rebuild}") from error
    if sha256 != record.engine_sha256:
        raise PlanMismatch(
            f"{path} is corrupt: its sha256 is {sha256[:12]}, {record.engine_sha256[:12]} was written: {rebuild}"
        )


def _sidecar(record: EngineRecord) -> bytes:
    value = record.model_dump(mode="json")
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def _read_record(path: Path) -> EngineRecord | None:
    try:
        return EngineRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _read_profiles(path: Path) -> tuple[EngineProfile, ...]:
    try:
        return _PROFILES.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return ()
