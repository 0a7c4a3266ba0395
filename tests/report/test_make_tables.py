"""make_tables.py: files, plots, the page with the examples, and mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import make_tables
from compositional.core.errors import UserError
from compositional.core.files import hash_of_files, read_json_lines, write_json
from compositional.core.recorded import read_recorded
from compositional.core.workspace import Workspace
from compositional.prediction.predict import read_predictions
from compositional.report.collect import collect, differing_settings, differing_sources, mixed_versions
from compositional.scoring.score import scores_per_example
from compositional.sweep.ablations import Ablation
from compositional.sweep.rows import TableRow
from helpers import PROJECT
from helpers.judging import right, store_predictions, verdicts, wrong
from helpers.tables import asked

FLAGS = "--sub_tasks sum_tr_es --methods zero_shot main_lora "


@pytest.fixture
def finished(workspace, judge):
    """Two experiments' predictions with results and verdicts, as if a sweep had made them."""
    outputs = {"zero_shot": "</script><b>no</b>", "main_lora": "Anna va a comprar una bicicleta."}
    for name, output in outputs.items():
        experiment = f"pocket_sum_tr_es_{name}"
        store_predictions(workspace, experiment, [("a & b", output), ("c", "la casa")])
        stages = {"test": {"headline_metric": "rougeL", "rouge_tokenizer": "unicode"}}
        write_json(
            workspace.results(experiment),
            {"stages": stages, "cost": {"extra_parameters": 0, "extra_bytes": 0, "inferences_per_example": 1}},
        )
    judge("--judge_model_name_or_path pocket --experiment_name pocket_sum_tr_es_zero_shot pocket_sum_tr_es_main_lora")
    return workspace


class PageData(HTMLParser):
    """The data in a page's JSON element, and the number of script elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts, self.text, self._inside = 0, "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.scripts += tag == "script"
        self._inside = ("id", "data") in attributes

    def handle_data(self, data: str) -> None:
        self.text += data if self._inside else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def test_the_command_writes_all_formats_and_scores_what_has_no_scores_yet(finished, caplog):
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    folder = finished.root / "output" / "tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("main.csv", "main.html", "main.md", "main.tex", "main_inferences.svg", "main_storage.svg")
    ]
    predictions = read_predictions(finished.predictions("pocket_sum_tr_es_main_lora", "test"))
    expected = scores_per_example([one.output for one in predictions], [one.reference for one in predictions])["rougeL_unicode"]
    rows = [row for _, row in read_json_lines(finished.scores("pocket_sum_tr_es_main_lora", "test"))]
    assert [row["rougeL"] for row in rows] == pytest.approx(expected, abs=1e-6)
    first = {path.name: path.read_text() for path in folder.iterdir()}
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    assert {path.name: path.read_text() for path in folder.iterdir()} == first


def test_scores_of_earlier_versions_get_the_names_of_their_inputs(finished):
    flags = shlex.split(f"{FLAGS}--workspace {finished.root}")
    make_tables.run(flags)
    path, table = finished.scores("pocket_sum_tr_es_main_lora", "test"), finished.root / "output" / "tables" / "main.md"
    scores, first = path.read_text(), table.read_text()
    rows = [{key: value for key, value in row.items() if key != "input"} for _, row in read_json_lines(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_tables.run(flags)
    assert (path.read_text(), table.read_text()) == (scores, first)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished.predictions("pocket_sum_tr_es_main_lora", "test").unlink()
    with pytest.raises(UserError, match=r"test.jsonl is missing: run the experiment again with --overwrite"):
        make_tables.run(flags)


def test_plots_show_each_method_that_is_there_at_its_cost(finished):
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    plot = (finished.root / "output" / "tables" / "main_storage.svg").read_text()
    assert "extra storage on the device (KiB)" in plot
    assert "S+Tr ROUGE-L %" in plot
    assert plot.count("<use ") >= 2
    assert [plot.count(f">{label}<") for label in ("Zero-shot", "Main-task LoRA", "others")] == [1, 1, 0]


def tables_in(workspace: Workspace, folder: Path, **variables: str) -> tuple[str, dict[str, bytes]]:
    """The command in a folder and a process of its own: what it prints, and what it writes."""
    tables = workspace.root / "output" / "tables"
    shutil.rmtree(tables, ignore_errors=True)
    words = [sys.executable, str(PROJECT / "make_tables.py"), *shlex.split(FLAGS), "--workspace", str(workspace.root)]
    done = subprocess.run(words, cwd=folder, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr, {path.name: path.read_bytes() for path in tables.iterdir()}


@pytest.mark.slow
def test_a_backend_or_settings_of_the_users_matplotlib_change_no_plot(finished, tmp_path):
    (tmp_path / "matplotlibrc").write_text("backend: TkAgg\ntext.usetex: True\nsvg.fonttype: path\n")
    _, plain = tables_in(finished, PROJECT)
    assert "main_storage.svg" in plain
    for backend in ("module://matplotlib_inline.backend_inline", "nonsense"):
        assert tables_in(finished, PROJECT, MPLBACKEND=backend)[1] == plain
    assert tables_in(finished, PROJECT, MATPLOTLIBRC=str(tmp_path))[1] == plain
    assert tables_in(finished, tmp_path)[1] == plain


@pytest.mark.slow
def test_a_table_is_written_without_plots_where_matplotlib_can_not_be_loaded(finished, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    printed, written = tables_in(finished, tmp_path)
    assert "no plots: Matplotlib can't be loaded ('utf-8' codec" in printed
    assert sorted(written) == ["main.csv", "main.html", "main.md", "main.tex"]


def test_nothing_that_a_model_says_can_break_out_of_the_page(finished):
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root} --examples 1"))
    page = PageData((finished.root / "output" / "tables" / "main.html").read_text())
    assert page.scripts == 2
    (example,) = json.loads(page.text)["sub_tasks"]["sum_tr_es"]
    assert example["input"] == "a & b"
    assert {name: said["text"] for name, said in example["outputs"].items()} == {
        "Zero-shot": "</script><b>no</b>",
        "Main-task LoRA": "Anna va a comprar una bicicleta.",
    }


def test_experiments_of_a_row_that_were_made_with_other_settings_are_told_apart(finished):
    for experiment, most in (("pocket_sum_tr_es_zero_shot", 8), ("pocket_sum_tr_es_main_lora", 9)):
        results = read_recorded(finished.results(experiment))
        write_json(finished.results(experiment), results | {"arguments": {"max_new_tokens": most}})
    chosen = asked({"sub_tasks": ["sum_tr_es"], "methods": ["zero_shot", "main_lora"]})
    outcomes = collect(chosen, finished, "test", "pocket")
    assert differing_settings(outcomes, None) == []
    alike = [replace(one, cell=replace(one.cell, label="one row")) for one in outcomes]
    assert differing_settings(alike, None) == ["one row: --max_new_tokens 8, 9"]
    rows = [TableRow(one.cell.label, "", "", series="LC") for one in outcomes]
    assert differing_settings(outcomes, Ablation("", rows, "", ())) == ["LC: --max_new_tokens 8, 9"]
    assert differing_settings(outcomes, Ablation("", rows, "", ("--max_new_tokens",))) == []


def test_a_row_of_several_versions_of_the_arithmetic_is_marked(finished):
    command = shlex.split(f"{FLAGS}--workspace {finished.root}")
    for experiment, versions in (("zero_shot", [1, 2]), ("main_lora", [2])):
        path = finished.results(f"pocket_sum_tr_es_{experiment}")
        write_json(path, read_recorded(path) | {"arithmetic": versions})
    make_tables.run(command)
    table = (finished.root / "output" / "tables" / "main.md").read_text()
    assert "NOT MADE ALIKE: Zero-shot: versions 1, 2 of the arithmetic." in table
    outcomes = collect(asked({"sub_tasks": ["sum_tr_es"], "methods": ["main_lora"]}), finished, "test", "pocket")
    assert mixed_versions(outcomes) == []
    older = replace(outcomes[0], results={"stages": {}})  # results of the first version name none
    assert mixed_versions([*outcomes, older]) == ["Main-task LoRA: versions 1, 2 of the arithmetic"]


def add_settings(workspace: Workspace, experiment: str, **settings: str) -> None:
    """Settings in an experiment's results, as run_experiment.py records them."""
    path = workspace.results(experiment)
    write_json(path, read_recorded(path) | {"settings": settings})


def test_experiments_on_different_references_are_not_put_side_by_side(finished):
    command = shlex.split(f"{FLAGS}--workspace {finished.root}")
    add_settings(finished, "pocket_sum_tr_es_zero_shot", hash_of_test_data="one", hash_of_valid_data="one")
    make_tables.run(command)  # the other one records none, as older versions
    add_settings(finished, "pocket_sum_tr_es_main_lora", hash_of_test_data="one", hash_of_valid_data="other")
    make_tables.run(command)
    add_settings(finished, "pocket_sum_tr_es_main_lora", hash_of_test_data="other", hash_of_valid_data="one")
    with pytest.raises(UserError) as caught:
        make_tables.run(command)
    assert list(caught.value.mistakes) == [
        "pocket_sum_tr_es_zero_shot and pocket_sum_tr_es_main_lora were scored against different versions of the test data "
        "(another hash_of_test_data): run both again with --overwrite"
    ]


def test_rows_on_another_adapter_or_base_model_of_the_same_name_are_named(finished):
    add_settings(finished, "pocket_sum_tr_es_zero_shot", hash_of_base_model="a", hash_of_adapter_lora="b", hash_of_adapter="c")
    add_settings(finished, "pocket_sum_tr_es_main_lora", hash_of_base_model="a", hash_of_adapter_lora="b", hash_of_adapter="d")
    chosen = asked({"sub_tasks": ["sum_tr_es"], "methods": ["zero_shot", "main_lora"]})
    assert differing_sources(collect(chosen, finished, "test", "pocket")) == []
    add_settings(finished, "pocket_sum_tr_es_main_lora", hash_of_base_model="other", hash_of_adapter_lora="other")
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    assert (
        "NOT MADE ALIKE: Main-task LoRA: the base model is another one than in other experiments; "
        "Main-task LoRA: adapter lora is another one than in other experiments."
    ) in (finished.root / "output" / "tables" / "main.md").read_text()


def judge_settings(workspace: Workspace, experiment: str) -> Path:
    return workspace.verdicts(experiment, "test", "pocket").with_suffix(".settings.json")


@pytest.mark.parametrize("change", ["other predictions", "no record"])
def test_verdicts_on_outputs_that_no_longer_exist_are_refused(change, finished):
    name = "pocket_sum_tr_es_main_lora"
    if change == "no record":  # as when an experiment is run again while its judge works
        judge_settings(finished, name).unlink()
        expected = "has verdicts, and test.judge_pocket.settings.json is missing"
    else:
        store_predictions(finished, name, [("a & b", "another answer"), ("c", "la casa")])
        expected = "has verdicts on other predictions than there are now"
    with pytest.raises(UserError) as caught:
        make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    path = finished.verdicts(name, "test", "pocket")
    assert list(caught.value.mistakes) == [f"{path} {expected}: judge {name} again, by llm_judge_eval.py --overwrite"]


def test_rows_that_another_judge_of_the_same_name_has_judged_are_named(finished):
    by_name = {"zero_shot": ("vllm", "bfloat16", "a/judge", "x"), "main_lora": ("llama_cpp", "q4_1", "./a/judge", "y")}
    for name, (backend, dtype, model, question) in by_name.items():
        path = judge_settings(finished, f"pocket_sum_tr_es_{name}")
        identity = {"judge": backend, "dtype": dtype, "model": model, "revision": "same", "prompt_hash": question}
        write_json(path, {"hash_of_predictions": read_recorded(path)["hash_of_predictions"]} | identity)
    outcomes = collect(asked({"sub_tasks": ["sum_tr_es"], "methods": ["zero_shot", "main_lora"]}), finished, "test", "pocket")
    assert differing_sources(outcomes) == [
        f"Main-task LoRA: the judge's {what} is another one than in other experiments"
        for what in ("back end", "precision", "question on sum_tr_es")
    ]
    older = replace(outcomes[1], judge={"revision": "same"})
    assert differing_sources([outcomes[0], older]) == []


def test_an_output_that_has_changed_or_is_missing_is_one_line_and_not_on_the_page(finished):
    experiment = "pocket_sum_tr_es_main_lora"
    path, settings = finished.predictions(experiment, "test"), finished.predictions_folder(experiment) / "settings.json"
    for judged in ("zero_shot", "main_lora"):  # verdicts would be refused before the page is made
        finished.verdicts(f"pocket_sum_tr_es_{judged}", "test", "pocket").unlink()
    command = shlex.split(f"{FLAGS}--workspace {finished.root}")
    make_tables.run(command)
    write_json(settings, read_recorded(settings) | {"hashes_of_files": {"test.jsonl": hash_of_files([path])}})
    rows = [row for _, row in read_json_lines(path)]
    path.write_text("".join(json.dumps(row | {"output": "changed"}) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"test.jsonl has changed since it was written"):
        make_tables.run(command)
    settings.unlink()
    path.write_text("".join(json.dumps({key: row[key] for key in row if key != "output"}) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"test.jsonl, line 1: not a prediction"):
        make_tables.run(command)


def right_with_one_wrong_word(number: int) -> tuple[str, str]:
    given, said = right(number)
    return given, f"xyz {said.split(' ', 1)[1]}"


def test_the_table_and_its_page_show_grades_where_there_is_no_yes(finished, judge):
    for name, output in {"zero_shot": wrong, "main_lora": right_with_one_wrong_word}.items():
        store_predictions(finished, f"pocket_sum_tr_es_{name}", [output(0), output(1)])
        judge(f"--judge_model_name_or_path pocket --experiment_name pocket_sum_tr_es_{name} --overwrite")
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    folder = finished.root / "output" / "tables"
    rows = {(row["method"], row["column"]): row["mean"] for row in csv.DictReader(io.StringIO((folder / "main.csv").read_text()))}
    methods = ("Zero-shot", "Main-task LoRA")
    assert [rows[method, "S+Tr LLM-J"] for method in methods] == ["0.000", "0.000"]
    assert [float(rows[method, "S+Tr grade"]) > 75 for method in methods] == [False, True]
    assert rows["Zero-shot", "S+Tr grade"] == "0.000"
    (first, _) = json.loads(PageData((folder / "main.html").read_text()).text)["sub_tasks"]["sum_tr_es"]
    expected = verdicts(finished, "pocket_sum_tr_es_main_lora")[0]["grade"]
    assert [first["outputs"][method]["grade"] for method in methods] == [0, pytest.approx(expected, abs=1e-4)]


def test_verdicts_without_grades_make_a_table_without_them(finished):
    chosen = asked({"sub_tasks": ["sum_tr_es"], "methods": ["zero_shot", "main_lora"]})
    for one in chosen:
        path = finished.verdicts(one.experiment, "test", "pocket")
        rows = [{key: value for key, value in row.items() if key != "grade"} for _, row in read_json_lines(path)]
        path.write_text("".join(json.dumps(row | {"verdict": "no", "failure": None}) + "\n" for row in rows))
        finished.judgement(one.experiment, "pocket").unlink()
    assert [one.graded for one in collect(chosen, finished, "test", "pocket")] == [None, None]
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    table = (finished.root / "output" / "tables" / "main.md").read_text()
    assert "LLM-J" in table
    assert "grade" not in table


def test_the_table_and_the_judges_record_have_one_interval_where_outputs_lack_a_verdict(finished, judge):
    names = ("zero_shot", "main_lora")
    for name in names:
        answers = [right(0), wrong(1), right_with_one_wrong_word(2), right(3)]
        unjudged = [(f"Nobody says {number}.", "nada") for number in range(40)]
        store_predictions(finished, f"pocket_sum_tr_es_{name}", answers + unjudged)
        judge(f"--judge_model_name_or_path pocket --experiment_name pocket_sum_tr_es_{name} --overwrite --bootstrap_resamples 500")
        finished.scores(f"pocket_sum_tr_es_{name}", "test").unlink(missing_ok=True)
    make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root} --bootstrap_resamples 500"))
    shown = csv.DictReader(io.StringIO((finished.root / "output" / "tables" / "main.csv").read_text()))
    rows = {row["column"]: row for row in shown if row["method"] == "Zero-shot"}
    recorded = read_recorded(finished.judgement("pocket_sum_tr_es_zero_shot", "pocket"))["stages"]["test"]
    assert recorded["counts"]["judged"] == 4
    for column, figure in (("S+Tr LLM-J", "yes"), ("S+Tr grade", "grade")):
        expected = [f"{100 * recorded[figure][end]:.3f}" for end in ("mean", "low", "high")]
        assert [rows[column][end] for end in ("mean", "low", "high")] == expected, column


def test_a_judge_that_has_judged_nothing_is_a_mistake(finished):
    with pytest.raises(UserError, match="--judge other: it has judged none of these experiments"):
        make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root} --judge other"))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({}, "stages is expected in it"),
        ([], "stages is expected in it"),
        ({"stages": []}, "stages is expected in it"),
        ({"stages": {"test": {}}, "cost": {}}, "stages.test lacks headline_metric, rouge_tokenizer"),
        ({"stages": {"test": None}, "cost": {}}, "stages.test lacks headline_metric, rouge_tokenizer"),
        ({"stages": {"test": [1]}, "cost": {}}, "stages.test lacks an object"),
        (
            {"stages": {"test": {"headline_metric": "rougeL", "rouge_tokenizer": "unicode"}}},
            "cost lacks extra_bytes, extra_parameters, inferences_per_example",
        ),
    ],
)
def test_results_without_their_parts_are_one_line(results, expected, finished):
    path = finished.results("pocket_sum_tr_es_zero_shot")
    write_json(path, results)
    with pytest.raises(UserError) as caught:
        make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    (line,) = caught.value.mistakes
    assert line.startswith(f"{path} is damaged: {expected}; remove the file, and ")


def test_scores_without_the_metric_are_one_line(finished):
    path = finished.scores("pocket_sum_tr_es_zero_shot", "test")
    path.write_text('{"id": "test_0", "input": "a", "rougeL": 0.5}\n{"id": "test_1", "input": "b"}\n')
    with pytest.raises(UserError) as caught:
        make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))
    assert list(caught.value.mistakes) == [f"{path}, line 2: not the scores of an example; remove the file, and it is made again"]


def test_experiments_on_different_examples_are_not_put_side_by_side(finished):
    store_predictions(finished, "pocket_sum_tr_es_main_lora", [("a", "b")])
    with pytest.raises(UserError, match="other examples than were predicted"):
        make_tables.run(shlex.split(f"{FLAGS}--workspace {finished.root}"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--methods zero_shot", "has no test results of these experiments: run_sweep.py makes them"),
        ("--reference zero", "--reference zero: "),
        ("--bootstrap_resamples 0", "--bootstrap_resamples 0: must be at least 1"),
        ("--methods zero", "--methods zero: did you mean zero_shot?"),
        ("--bootstrap_seed -1", "--bootstrap_seed -1: must be at least 0"),
        ("--folder /etc/passwd", "--folder /etc/passwd: /etc/passwd is not a folder"),
    ],
)
def test_mistakes_are_one_line(flags, expected, workspace):
    with pytest.raises(UserError) as caught:
        make_tables.run(shlex.split(f"{flags} --workspace {workspace.root}"))
    (line,) = caught.value.mistakes
    assert expected in line
