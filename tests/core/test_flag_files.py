"""Files of flags: any text in UTF-8 is read as a shell would, and what can't be read is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from compositional.core.errors import UserError
from compositional.core.flags import expanded


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "flags.txt"


@pytest.mark.parametrize(
    "content",
    [
        b"--a 1 --b 'x y'",
        b"--a 1\r\n--b 'x y'\r\n",
        b"\xef\xbb\xbf--a 1\n--b 'x y'\n",
        b"# Pocket's own\n--a 1 # it's short\n\n--b 'x y'",
        b"--a 1 \\\n  --b 'x y' \\\n",
    ],
    ids=["one line", "Windows", "BOM", "comments", "backslashes"],
)
def test_a_file_is_read_as_a_shell_reads_words(content, file):
    file.write_bytes(content)
    assert expanded(["--c", "@flags.txt", "d"]) == ["--c", "--a", "1", "--b", "x y", "d"]


def test_a_file_may_name_another_and_both_may_be_named_twice(file):
    file.write_text("@other.txt --b")
    file.with_name("other.txt").write_text("--a")
    assert expanded(["@flags.txt", "@other.txt", "@flags.txt"]) == ["--a", "--b", "--a", "--a", "--b"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"--a 1\n--b Pocket's", "@flags.txt, line 2: No closing quotation: "),
        (b"--a C:\\", "@flags.txt, line 1: No escaped character: "),
        (b"--a caf\xe9", "@flags.txt: 'utf-8' codec can't decode byte 0xe9 in position 7: "),
        ("--a 1".encode("utf-16"), "@flags.txt: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("--a 1".encode("utf-16-le"), "@flags.txt: not a text file in UTF-8"),
        (b"@flags.txt", "@flags.txt: the file names itself, in "),
        (b"@./link.txt", "@./link.txt: the file names itself, in "),
        (b"@absent.txt", "@absent.txt: No such file or directory"),
        (b"@.", "@.: Is a directory"),
        (b"@" + b"x" * 300, f"@{'x' * 300}: File name too long"),
    ],
)
def test_what_can_not_be_read_is_one_line(content, expected, file):
    file.write_bytes(content)
    file.with_name("link.txt").symlink_to(file)
    with pytest.raises(UserError) as caught:
        expanded(["@flags.txt"])
    (line,) = caught.value.mistakes
    assert line.startswith(expected)
