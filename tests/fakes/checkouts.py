"""Checkouts that are only said to be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convergenced.model import Checkout, LocalPath


class FakeCheckouts:
    """`ports.Checkouts` from a table."""

    def __init__(self) -> None:
        self._checkouts: dict[str, Checkout] = {}

    def inspect(self, path: LocalPath) -> Checkout | None:
        """The checkout that `path` lies in; None where there is none."""
        folder = str(path)
        while folder and folder != "/":
            if folder in self._checkouts:
                return self._checkouts[folder]
            folder = folder.rpartition("/")[0]
        return None

    def find(self, roots: Sequence[LocalPath]) -> Iterator[Checkout]:
        """Checkouts below `roots`, shallow ones first, each once."""
        for root in sorted(self._checkouts, key=lambda path: (path.count("/"), path)):
            if any(f"{root}/".startswith(f"{one.rstrip('/')}/") for one in roots):
                yield self._checkouts[root]

    def add(
        self,
        root: str,
        git_url: str | None = None,
        first_commit: str | None = None,
        main_root: str | None = None,
    ) -> Checkout:
        """A checkout appears at `root`; with `main_root` a linked worktree."""
        checkout = Checkout(LocalPath(root), LocalPath(main_root or root), git_url, first_commit)
        self._checkouts[root] = checkout
        return checkout

    def take_away(self, root: str) -> None:
        """The checkout at `root` goes."""
        del self._checkouts[root]
