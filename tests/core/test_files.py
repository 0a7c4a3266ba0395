"""JSON and JSON Lines with the byte order marks of Windows."""

from __future__ import annotations

import json

import pytest

from compositional.core.errors import UserError
from compositional.core.files import read_json, read_json_lines

BOM = b"\xef\xbb\xbf"


def test_a_byte_order_mark_before_a_file_or_a_joined_part_of_it_is_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(BOM + b'{"a": "\xc3\xa9"}\r\n' + BOM + b'{"a": 2}\n')
    assert list(read_json_lines(path)) == [(1, {"a": "é"}), (2, {"a": 2})]
    path.write_bytes(BOM + b'{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_is_one_line_with_the_number_of_its_line(encoding, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps({"a": "é"}, ensure_ascii=False).encode(encoding))
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: not a JSON object"):
        list(read_json_lines(path))
    with pytest.raises(UserError, match=r"rows.jsonl: not a JSON file"):
        read_json(path)
