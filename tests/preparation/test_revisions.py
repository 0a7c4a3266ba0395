"""Verdicts and prepared sets record revisions of the code that made them: whoever changes it has to decide about a new one.

Where a test here fails, and texts, findings or verdicts are others now, give the file a new REVISION (any text), so that what was
made before is made anew; then, in any case, note the new fingerprint here.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path

from compositional.core.files import hash_of_json
from compositional.data import Locations, all_datasets
from compositional.pocket import GRADE_REVISION, GRAMMAR_REVISION
from compositional.pocket.examples import draw_examples
from compositional.pocket.rules import grade, says
from compositional.pocket.sentences import render_all
from compositional.preparation import quality, text_models
from compositional.preparation.text_models import chat, llm_toys, marian, pocket

STYLES = ("en", "es", "fr", "de", "professional", "casual", "witty", "paraphrase")


def fingerprint_of_code(*parts: object) -> str:
    """Of modules or functions, without comments, docstrings, imports, layout and revisions."""
    digest = hashlib.sha256()
    for part in parts:
        tree = ast.parse(inspect.getsource(part))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                kept = [one for one in body if not isinstance(one, ast.Import | ast.ImportFrom) and not _is_text(one)]
                node.body = [one for one in kept if not _is_revision(one)] or [ast.Pass()]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_revision(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REVISION"


def test_code_that_makes_texts_or_findings_is_that_of_its_revision():
    splitting = (text_models.split_text, text_models.rewrite_in_pieces, text_models._split)
    found = {
        "marian": (marian.REVISION[:8], fingerprint_of_code(marian, *splitting)),
        "llm_toys": (llm_toys.REVISION[:8], fingerprint_of_code(llm_toys, *splitting)),
        "chat": (chat.REVISION[:8], fingerprint_of_code(chat, *splitting)),
        "pocket": (pocket.REVISION[:8], fingerprint_of_code(pocket)),
        "quality": (quality.REVISION[:8], fingerprint_of_code(quality)),
    }
    assert found == {
        "marian": ("9fe2b441", "ad2674862b1cc6c4"),
        "llm_toys": ("972a280d", "e22c90deaacf0911"),
        "chat": ("7c1f4b0e", "cff79535aeba170e"),
        "pocket": ("05400d0c", "d589a1004cc9199e"),
        "quality": ("eff71df3", "e3f8c7dd5b0b0bc6"),
    }


def test_what_pockets_grammar_writes_and_judges_is_that_of_its_revision():
    sets = [one for one in all_datasets(Locations(Path("nowhere"), None)).values() if one.benchmark == "pocket"]
    written = [[e.id, e.input, e.reference] for one in sets for e in one.read("test")]
    verdicts, grades = [], []
    for source in ("dialogs", "replies", "sentences"):
        meanings = [example.meaning for example in draw_examples(source, "test")][:40]
        for style in STYLES:
            texts = [render_all(meaning, style) for meaning in meanings]
            texts += [text.lower() for text in texts] + [text.rpartition(" ")[0] for text in texts] + texts[1:] + texts[:1]
            verdicts += [says(text, meanings[number % 40], style) for number, text in enumerate(texts)]
            grades += [round(grade(text, meanings[number % 40], style), 9) for number, text in enumerate(texts)]
    assert 0.4 < sum(verdicts) / len(verdicts) < 0.6, "both verdicts occur"
    assert (GRAMMAR_REVISION[:8], hash_of_json([written, verdicts])[:16]) == ("277fa204", "1a02217246e82d8f")
    assert len(set(grades)) > 100
    assert (GRADE_REVISION, hash_of_json(grades)[:16]) == ("1", "acef22c44352d484")
