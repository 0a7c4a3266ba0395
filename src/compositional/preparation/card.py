"""A prepared set's card: what it holds, where it is from, and how long its examples are in tokens under a model's template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError
from compositional.core.tables import aligned
from compositional.data import Dataset
from compositional.models.chat import instruction, user_turn
from compositional.models.model import Model
from compositional.preparation.quality import FINDINGS, PreparedExample
from compositional.tasks import Task

if TYPE_CHECKING:
    from compositional.models.chat import ChatEncoder

LIMIT = 512  # tokens of a sequence: the default of run_experiment.py's --max_length
_AT_A_TIME = 2000


@dataclass(frozen=True)
class Lengths:
    """Mean and maximum in tokens, and the share of examples above LIMIT."""

    mean: float
    maximum: int
    share_over_limit: float

    @classmethod
    def of(cls, lengths: list[int]) -> Lengths:
        """The statistics of lengths in tokens, of which there is at least one."""
        over = sum(length > LIMIT for length in lengths)
        return cls(round(sum(lengths) / len(lengths), 1), max(lengths), over / len(lengths))


def lengths_under(
    encoder: ChatEncoder, splits: dict[str, list[PreparedExample]], tasks: tuple[Task, ...]
) -> dict[str, dict[str, Any]]:
    """By split: the lengths of the prompts, and of prompts with their targets, as they are trained on."""
    asked = instruction(tasks)
    found = {}
    for split, examples in splits.items():
        prompts, whole = [], []
        for some in _some_at_a_time(examples):
            of_prompts = encoder.question_lengths([user_turn(asked, example.input) for example in some])
            of_targets = encoder.target_lengths([example.target for example in some])
            prompts += of_prompts
            whole += [prompt + target for prompt, target in zip(of_prompts, of_targets, strict=True)]
        found[split] = {"prompt": asdict(Lengths.of(prompts)), "prompt_and_target": asdict(Lengths.of(whole))}
    return found


def encoder_of(model: str) -> ChatEncoder | str:
    """A model's encoder, or why there is none: lengths are a report, for which nothing else has to wait."""
    from compositional.models.chat import ChatEncoder

    try:
        return ChatEncoder(Model(model).tokenizer)
    except UserError as error:
        return error.mistakes[0]


def _some_at_a_time(examples: list[PreparedExample]) -> Iterator[list[PreparedExample]]:
    for start in range(0, len(examples), _AT_A_TIME):
        yield examples[start : start + _AT_A_TIME]


_EXAMPLES = 10
_EXAMPLES_OF_A_FINDING = 3
_BAR = 40  # characters


def card(
    dataset: Dataset, splits: dict[str, list[PreparedExample]], record: dict[str, Any], lengths: dict[str, dict[str, Any] | str]
) -> str:
    """The card's text. `lengths` has, by model, the lengths in tokens or the reason why there are none."""
    parts = [
        f"# {dataset.name}",
        _origin(dataset, record),
        "## Examples by split",
        _counts(record),
        "## Findings",
        "Findings are counted before anything is dropped. Only `--drop` leaves examples out, under the first finding it names.",
        _findings(record),
        *(["Some of them:", _examples_of_findings(splits)] if any(record["findings"].values()) else []),
        f"## Lengths in tokens, of which at most {LIMIT} are used by default",
        _token_lengths(lengths),
        "## Lengths in characters",
        *(_histogram(title, values) for title, values in _characters(splits).items()),
        "## Ten examples",
        *map(_shown, _spread(splits["train"], _EXAMPLES)),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(dataset: Dataset, record: dict[str, Any]) -> str:
    source, made_from = dataset.source, record["made_from"]
    tasks = ", then ".join(f"{task.name} ({task.variant})" if task.variant else task.name for task in dataset.tasks)
    lines = [
        f"- Task: {tasks}. Inputs in English, targets in `{dataset.language}`.",
        f"- Source: {source.title} ({record['source']}). Licence: {source.licence}. Splits: {source.split_rule}.",
    ]
    if made_from["text_model"]:
        settings = ", ".join(f"{key} {value}" for key, value in made_from["text_model"].items() if key not in ("name", "code"))
        lines.append(f"- Targets: the source's, rewritten by {made_from['text_model']['name']} ({settings}). Inputs are unchanged.")
    else:
        lines.append("- Targets: as published.")
    return "\n".join([*lines, f"- Fingerprint: `{record['fingerprint']}`."])


def _table(header: list[str], rows: list[list[Any]]) -> str:
    return aligned([tuple(map(str, line)) for line in (header, *rows)]).strip()


def _counts(record: dict[str, Any]) -> str:
    counts = record["counts"]
    reasons = {f"left out: {reason}": None for split in counts.values() for reason in split["left_out"]}
    dropped = {f"dropped: {name}": None for split in counts.values() for name in split["dropped"]}
    rows = []
    for split, count in counts.items():
        left_out = [count["left_out"].get(reason.removeprefix("left out: "), 0) for reason in reasons]
        cells = [count["dropped"].get(name.removeprefix("dropped: "), 0) for name in dropped]
        rows.append([split, count["kept"], *left_out, *cells])
    return _table(["split", "examples", *reasons, *dropped], rows)


def _findings(record: dict[str, Any]) -> str:
    found = record["findings"]
    rows = [[name, *(counts.get(name, 0) for counts in found.values()), meaning] for name, meaning in FINDINGS.items()]
    return _table(["finding", *found, "meaning"], rows)


def _examples_of_findings(splits: dict[str, list[PreparedExample]]) -> str:
    shown = []
    for name in FINDINGS:
        having = [example for examples in splits.values() for example in examples if name in example.findings]
        shown += [f"`{name}`, {example.id}\n\n{_shown(example)}" for example in having[:_EXAMPLES_OF_A_FINDING]]
    return "\n\n".join(shown) or "They were all dropped."


def _token_lengths(lengths: dict[str, dict[str, Any] | str]) -> str:
    rows, missing = [], []
    for model, by_split in lengths.items():
        if isinstance(by_split, str):
            missing.append(f"- {model}: not measured: {by_split}")
            continue
        for split, kinds in by_split.items():
            for kind, found in kinds.items():
                share = f"{100 * found['share_over_limit']:.1f} %"
                rows.append([model, split, kind.replace("_", " "), found["mean"], found["maximum"], share])
    table = _table(["model", "split", "what", "mean", "maximum", f"over {LIMIT}"], rows)
    return "\n\n".join([*([table] if rows else []), *(["\n".join(missing)] if missing else [])])


def _characters(splits: dict[str, list[PreparedExample]]) -> dict[str, list[int]]:
    examples = [example for some in splits.values() for example in some]
    return {"Inputs": [len(example.input) for example in examples], "Targets": [len(example.target) for example in examples]}


def _histogram(title: str, lengths: list[int]) -> str:
    """How many texts have up to 2, 4, 8, ... characters."""
    buckets = Counter(max(length - 1, 0).bit_length() for length in lengths)
    most = max(buckets.values())
    lines = [
        f"{'≤ ' + str(2**bucket):>9} {buckets[bucket]:>8} {'█' * round(_BAR * buckets[bucket] / most)}".rstrip()
        for bucket in range(min(buckets), max(buckets) + 1)
    ]
    return "\n".join([f"{title}:", "", "```text", *lines, "```"])


def _spread(examples: list[PreparedExample], count: int) -> list[PreparedExample]:
    """Examples at equal distances, from the first on."""
    step = max(1, len(examples) // count)
    return examples[::step][:count]


def _shown(example: PreparedExample) -> str:
    """An example as a block in which nothing is read as Markdown."""
    parts = {"input": example.input, "source": example.source, "target": example.target}
    text = "\n".join(f"{name}: {value}" for name, value in parts.items() if value is not None)
    fence = "`" * max(3, 1 + max((len(run) for run in text.split() if set(run) == {"`"}), default=0))
    return f"{fence}text\n{text}\n{fence}"
