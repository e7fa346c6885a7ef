"""A watcher that says what it is told to say."""

from __future__ import annotations

from collections.abc import Callable

from convergenced.errors import UsageError
from convergenced.model import Kind, LocalPath
from tests.fakes.files import MemoryFiles


class ManualWatcher:
    """`ports.Watcher` by hand: `hint` says that something changed.

    Given `files`, every change below the folder is said by itself, at once and in the same thread, unless
    `deaf` is set; and a folder that is not there cannot be watched.
    """

    def __init__(self, files: MemoryFiles | None = None) -> None:
        self._files = files
        self._trouble: str | None = None
        self._changed: Callable[[LocalPath], None] | None = None
        self.folder: LocalPath | None = None
        self.deaf = False

    def start(self, folder: LocalPath, changed: Callable[[LocalPath], None]) -> None:
        """Watches `folder` and all below."""
        if self.folder is not None:
            raise UsageError(f"already watching {self.folder}")
        if self._files is not None:
            if not self._is_folder(folder):
                raise UsageError(f"{folder} cannot be watched: there is no such folder")
            self._files.observers.append(self._heard)
        self.folder, self._changed = folder, changed

    def stop(self) -> None:
        """Ends watching; `changed` is not called afterwards."""
        if self._files is not None and self.folder is not None:
            self._files.observers.remove(self._heard)
        self.folder = self._changed = None

    def trouble(self) -> str | None:
        """What `say_trouble` said last."""
        return self._trouble if self.folder is not None else None

    def hint(self, path: str) -> None:
        """Something changed at `path`."""
        if self._changed is not None:
            self._changed(LocalPath(path))

    def say_trouble(self, trouble: str | None) -> None:
        """Sets what `trouble` answers."""
        self._trouble = trouble

    def _heard(self, path: LocalPath) -> None:
        if not self.deaf and self.folder is not None and f"{path}/".startswith(f"{self.folder}/"):
            self.hint(path)

    def _is_folder(self, folder: LocalPath) -> bool:
        assert self._files is not None
        parent, _, name = folder.rpartition("/")
        entries = self._files.list(LocalPath(parent or "/")) or []
        return any(entry.name == name and entry.kind is Kind.FOLDER for entry in entries)
