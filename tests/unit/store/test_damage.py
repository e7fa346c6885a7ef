"""What is taken for damage, and what for a want that will pass."""

from __future__ import annotations

import errno
import os

import pygit2
import pytest

from convergenced.errors import MissingObjectError, PeerUnreachableError, RefMovedError, StoreError
from convergenced.store.damage import may_be_damage


def store_error(cause: Exception) -> StoreError:
    try:
        try:
            raise cause
        except type(cause) as error:
            raise StoreError("the store cannot be read") from error
    except StoreError as error:
        return error


@pytest.mark.parametrize("error", [StoreError("x"), MissingObjectError("x"), store_error(ValueError("x"))])
def test_a_store_that_cannot_be_read_may_be_damaged(error: Exception) -> None:
    assert may_be_damage(error)


@pytest.mark.parametrize("want", [errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_want_is_no_damage(want: int) -> None:
    words = os.strerror(want)
    assert not may_be_damage(store_error(OSError(want, words)))
    assert not may_be_damage(store_error(pygit2.GitError(f"failed to open x: {words}")))


@pytest.mark.parametrize("error", [RefMovedError("x"), PeerUnreachableError("x"), ValueError("x")])
def test_what_is_not_about_the_store_is_no_damage(error: Exception) -> None:
    assert not may_be_damage(error)
