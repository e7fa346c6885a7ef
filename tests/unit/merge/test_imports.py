"""What a CLAUDE.md has the client read."""

from __future__ import annotations

import pytest

from convergenced.merge.imports import find_imports


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("@~/.ssh/id_rsa", ["~/.ssh/id_rsa"]),
        ("# Rules\n\n- see @docs/build.md, and @/etc/passwd.\n", ["docs/build.md", "/etc/passwd"]),
        ("(@README.md)\r\n**@a.md**\r\n", ["README.md", "a.md"]),
        ("@one.md @one.md\n@two.md", ["one.md", "two.md"]),
        ("@id_rsa\n", ["id_rsa"]),
        ("\\@x.md <!-- @y.md -->", ["x.md", "y.md"]),
        ("ask ann@example.org or a.b+c@example.org", []),
        ("an @ sign, and @@ two", []),
        ("`npm i @types/node` and `@pytest.fixture`\n", []),
        ("```python\n@app.route('/x')\n@dataclass\n```\n", []),
        # Where code begins may be read otherwise.
        ("```\n@~/.ssh/id_rsa\n@/etc/passwd\n@../x\n```\n", ["~/.ssh/id_rsa", "/etc/passwd", "../x"]),
        ("` @~/.aws/credentials `", ["~/.aws/credentials"]),
        ("`` ` @a.md `` @b.md `", ["b.md"]),
        ("", []),
    ],
)
def test_paths_behind_an_at_sign(text: str, paths: list[str]) -> None:
    assert list(find_imports(text.encode())) == paths


def test_what_is_no_text_passes() -> None:
    assert find_imports(b"\xff\x00 @a\xffb.md\n") == ("a\ufffdb.md",)
