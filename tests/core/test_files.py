"""JSON and JSON Lines with the byte order marks of Windows, and headers of safetensors files that are damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from compositional.core.errors import UserError
from compositional.core.files import lies_in, read_json, read_json_lines, read_metadata, read_tensor_shapes
from compositional.core.processes import holding, is_held

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


def tensor(**changed: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changed}


HALVES = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F64", "shape": [1], "data_offsets": [8, 16]}}


def written(path, header: Any, data: int = 16):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(data))
    return path


@pytest.mark.parametrize(
    ("header", "shapes"),
    [
        (tensor(), {"a": [2, 2]}),
        (HALVES, {"a": [2], "b": [1]}),
        (tensor(dtype="BF16", shape=[2, 1, 4]), {"a": [2, 1, 4]}),
        ({"__metadata__": {"b": "c"}} | tensor(), {"a": [2, 2]}),
        ({"__metadata__": None} | tensor(dtype="F8_E4M3", shape=[16]), {"a": [16]}),
    ],
)
def test_the_shapes_in_a_header_are_those_that_safetensors_reads(header, shapes, tmp_path):
    path = written(tmp_path / "a.safetensors", header)
    assert read_tensor_shapes(path) == shapes
    with safe_open(path, "pt") as file:
        assert {name: list(file.get_slice(name).get_shape()) for name in file.keys()} == shapes  # noqa: SIM118 (it is no mapping)


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b'{"a": ', b"[" * 100_000, [], {"a": 5}, {"a": {}}),
        *(tensor(dtype="F99"), tensor(dtype=["F32"]), tensor(shape="22"), tensor(shape=[2.0, 2]), tensor(shape=[-2, -2])),
        *(tensor(data_offsets=[16]), tensor(data_offsets=["0", "16"]), tensor(data_offsets=None), tensor(shape=[3, 2])),
        *(HALVES | {"b": HALVES["a"]}, HALVES | {"c": tensor(data_offsets=[20, 36])["a"]}),
        *({"__metadata__": []} | tensor(), {"__metadata__": {"b": 1}} | tensor()),
    ],
)
def test_a_damaged_header_is_one_line(header, tmp_path):
    path = written(tmp_path / "a.safetensors", header)
    for read in (read_tensor_shapes, read_metadata):
        with pytest.raises(UserError, match=re.escape(f"{path} is damaged: Error while deserializing header")):
            read(path)


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_a_file_of_tensors_that_is_cut_off_is_one_line(kept, tmp_path):
    path = written(tmp_path / "a.safetensors", tensor())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=re.escape(f"{path} is damaged: Error while deserializing header")):
        read_tensor_shapes(path)


def test_what_lies_in_a_folder_is_found_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doomed, elsewhere = tmp_path / "doomed", tmp_path / "elsewhere"
    (doomed / "base").mkdir(parents=True)
    (elsewhere / "base").mkdir(parents=True)
    (tmp_path / "in").symlink_to(doomed / "base")
    (doomed / "out").symlink_to(elsewhere)
    inside = [
        "doomed",
        "doomed/base",
        "./doomed/base/",
        "elsewhere/../doomed/base",
        "in",
        "doomed/out",
        "doomed/out/base",
        "doomed/none",
    ]
    outside = ["elsewhere", "elsewhere/base", "doomed_base", "."]
    for name in (*inside, *outside):
        assert lies_in(tmp_path / name, doomed) == lies_in(Path(name), doomed) == (name in inside), name


def test_of_a_folder_that_is_a_link_only_the_link_is_deleted(tmp_path):
    (tmp_path / "moved" / "base").mkdir(parents=True)
    (tmp_path / "doomed").symlink_to(tmp_path / "moved")
    assert lies_in(tmp_path / "doomed" / "base", tmp_path / "doomed")
    assert not lies_in(tmp_path / "moved" / "base", tmp_path / "doomed")


def test_a_file_is_held_for_as_long_as_somebody_holds_it(tmp_path):
    mark = tmp_path / "mark"
    assert not is_held(mark)
    with holding(mark):
        assert is_held(mark)
    assert not is_held(mark)
