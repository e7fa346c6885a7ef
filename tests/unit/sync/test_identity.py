"""Which project a folder belongs to, from its code."""

from __future__ import annotations

import pytest

from convergenced.merge.layout import ProjectTree
from convergenced.merge.names import valid_project_id
from convergenced.model import Checkout, LocalPath, ProjectId
from convergenced.sync.identity import (
    Identity,
    distinct_name,
    identity_of_checkout,
    identity_of_project,
    machine_cards,
    may_be_named,
    name_for,
    participants,
)
from tests.fakes.store import MemoryStore

HOME = LocalPath("/home/ann")
ROOT = LocalPath("/home/ann/src/app")


def checkout(url: str | None = None, first: str | None = None, main: str = ROOT) -> Checkout:
    return Checkout(ROOT, LocalPath(main), url, first)


def known(url: str | None = None, first: str | None = None, place: str | None = None) -> Identity:
    return Identity(
        frozenset({url} if url else ()),
        frozenset({first} if first else ()),
        frozenset({place} if place else ()),
    )


def test_an_equal_url_is_the_same_project_whatever_else_differs() -> None:
    assert known("h/a", "1", "x").is_same(known("h/a", "2", "y"))


def test_different_urls_are_different_projects_even_with_a_common_first_commit() -> None:
    assert not known("h/a", "1").is_same(known("h/fork", "1"))
    assert known("h/a", "1").is_stranger(known("h/fork", "1"))


def test_where_a_url_is_missing_the_first_commit_decides() -> None:
    assert known("h/a", "1").is_same(known(None, "1"))
    assert not known("h/a", "1").is_same(known(None, "2"))
    assert not known("h/a").is_same(known(None, "2"))


def test_the_place_counts_only_where_nobody_knows_of_code() -> None:
    assert known(place="src/app").is_same(known(place="src/app"))
    assert not known(place="src/app").is_same(known(place="src/other"))
    assert not known("h/a", place="src/app").is_same(known(place="src/app"))
    assert not known(place="src/app").is_stranger(known("h/a"))


def test_a_checkout_tells_url_first_commit_and_place() -> None:
    assert identity_of_checkout(checkout("h/a", "1"), ROOT, HOME) == known("h/a", "1", "src/app")
    assert identity_of_checkout(None, ROOT, HOME) == known(place="src/app")
    assert identity_of_checkout(None, LocalPath("/srv/app"), HOME) == Identity()


def test_a_subfolder_of_a_repository_is_a_project_of_its_own() -> None:
    whole = identity_of_checkout(checkout("h/a", "1"), ROOT, HOME)
    part = identity_of_checkout(checkout("h/a", "1"), LocalPath(f"{ROOT}/web"), HOME)
    assert not part.is_same(whole)
    assert part.urls == {"h/a#web"}
    assert part.first_commits == {"1#web"}
    assert name_for(checkout("h/a"), LocalPath(f"{ROOT}/web/x")) == "a-web-x"


@pytest.mark.parametrize(
    ("found", "root", "name"),
    [
        (checkout("example.org/ann/tool"), ROOT, "tool"),
        (checkout(), ROOT, "app"),
        (checkout(main="/home/ann/src/real"), ROOT, "real"),
        (None, LocalPath("/home/ann/my notes (old)"), "my-notes-old"),
        (None, LocalPath("/home/ann/-.lock.lock"), "lock"),
        (None, LocalPath("/home/ann/x.lock"), "x"),
        (None, LocalPath("/home/ann/日本"), "project"),
        (None, LocalPath("/"), "project"),
        (None, LocalPath("/a..b"), "project"),
    ],
)
def test_a_project_is_named_after_its_repository_else_its_folder(
    found: Checkout | None, root: LocalPath, name: str
) -> None:
    assert name_for(found, root) == name
    assert valid_project_id(name_for(found, root))


def test_a_long_name_leaves_room_for_a_suffix() -> None:
    name = name_for(None, LocalPath("/" + "x" * 300))
    assert valid_project_id(distinct_name(name, known("h/a"), "m", ROOT))


def test_a_distinct_name_is_the_same_on_every_machine_with_that_code() -> None:
    app = ProjectId("app")
    one = distinct_name(app, known("h/a", "1", "x"), "ann", LocalPath("/one"))
    other = distinct_name(app, known("h/a", "2", "y"), "bob", LocalPath("/other"))
    assert one == other != distinct_name(app, known("h/b"), "ann", LocalPath("/one"))
    assert distinct_name(app, known(None, "1"), "ann", ROOT) == distinct_name(
        app, known(None, "1"), "bob", HOME
    )
    assert distinct_name(app, Identity(), "ann", ROOT) != distinct_name(app, Identity(), "bob", ROOT)


def test_a_distinguishing_suffix_does_not_hide_a_name() -> None:
    suffixed = distinct_name(ProjectId("app"), known("h/a"), "ann", ROOT)
    assert may_be_named(suffixed, ["app"])
    assert may_be_named("app", ["app"])
    assert may_be_named("app-123456", ["app-123456"])
    assert not may_be_named("app-web", ["app"])


def test_a_card_that_cannot_be_read_says_nothing() -> None:
    store = MemoryStore()
    tree = ProjectTree(
        machines={
            "a.json": store.write_blob(b"nonsense"),
            "b.json": store.write_blob(b'{"schema":99}'),
        }
    )
    assert machine_cards(store, tree) == []
    assert participants(store, tree) == ()
    assert identity_of_project(store, tree) == Identity()
