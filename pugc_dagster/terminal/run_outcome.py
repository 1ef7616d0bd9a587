"""What came of a run, in short, for the terminal: rewards as a histogram, the best pairs, the policies against their
start. Everything is made of plain data, for a width in columns; texts of users and models go through `terminal.plain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pugc_core.results.summary import RewardShape, Shown
from pugc_core.training.summary import Summary
from pugc_dagster.terminal.safe_text import plain

_BAR = 40
"""Columns of the longest bar, where there is room."""
_QUESTION, _ANSWER, _SAMPLE = 2, 4, 7
"""Lines that a question, an answer of a pair and a sample of a policy may take."""
_LEFT = 15
"""Columns left of an answer: what it is, and its reward."""
_ruler = Console(width=80, color_system=None)


def clipped(text: str, width: int, lines: int) -> list[str]:
    """The text in lines of at most so many columns, all white space being one space; of a longer one the first `lines`,
    with an ellipsis."""
    words = Text(" ".join(plain(text).split()))
    wrapped = [line.plain.rstrip() for line in words.wrap(_ruler, max(width, 8))]
    if len(wrapped) <= lines:
        return wrapped or [""]
    last = wrapped[lines - 1]
    while cell_len(last) > width - 2:  # without the words that leave the ellipsis no room, or the end of the only one
        last = last.rpartition(" ")[0] or set_cell_size(last, width - 2).rstrip()
    return [*wrapped[: lines - 1], f"{last} …"]


def histogram(shape: RewardShape, width: int) -> Iterator[str]:
    """Rewards in bands from 1 to 5: a bar and a count for each; lighter, where all answers to a question tied. Of a
    classifier's scores, which have no bands, the mean and the ties."""
    yield f"rewards of {shape.responses:,} answers: mean {shape.mean:.2f}, std {shape.std:.2f}"
    room = max(8, min(_BAR, width - 18))
    most = max([*shape.histogram.values(), 1])
    for band, n in shape.histogram.items():
        cells = max(round(room * n / most), n > 0)
        solid = min(cells, max(round(room * shape.untied[band] / most), shape.untied[band] > 0))
        yield f"  {band}  {'█' * solid + '░' * (cells - solid):<{room}} {n:>5,}"
    fullest, mark = (f"the fullest bin has {shape.fullest:.0%} of them; ", " (░)") if shape.histogram else ("", "")
    yield (
        f"{fullest}all tied{mark}: {shape.tied:,} of {shape.instructions:,} "
        f"questions, {shape.all_tied:.0%}; {shape.parse_rate:.1%} of the votes parsed"
    )


def pairs(found: Sequence[Shown], total: int, width: int) -> Iterator[Text]:
    """Pairs, a few lines each: question, where it is from, and both answers with their rewards."""
    if not found:
        return
    yield Text(f"the best {len(found)} of {total:,} pairs, by reward margin and one of a post", style="bold")
    for pair in found:
        yield Text()
        for line in clipped(pair.question, width - 2, _QUESTION):
            yield Text(f"  {line}", style="cyan")
        about = f"shard {pair.shard}, pair {pair.pair_id}, reward margin {pair.margin:.2f}"
        for line in clipped(about, width - 2, _QUESTION):
            yield Text(f"  {line}", style="dim")
        yield from _answer("chosen", pair.chosen_reward, pair.chosen, width, "green")
        yield from _answer("rejected", pair.rejected_reward, pair.rejected, width, "red")


def _answer(mark: str, reward: float, text: str, width: int, colour: str) -> Iterator[Text]:
    for number, line in enumerate(clipped(text, width - _LEFT - 1, _ANSWER)):
        head = f"  {mark:<8} {reward:.2f}" if number == 0 else ""
        yield Text.assemble((f"{head:<{_LEFT}}", colour), f" {line}")


def held_out(policies: Mapping[str, Summary]) -> Iterator[Table | str]:
    """A row for every policy: how it does on pairs that it was not trained on, with 95% intervals."""
    if not policies:
        return
    table = Table("policy", title="policies on pairs that they were not trained on", title_justify="left")
    for column in ("pairs", "accuracy", "reward gain"):
        table.add_column(column, justify="right")
    for objective, summary in policies.items():
        figures = (summary.held_out.get(name) for name in ("accuracy", "gain"))
        table.add_row(objective, str(summary.n_test), *(str(figure) if figure else "-" for figure in figures))
    yield table
    yield (
        "accuracy: share of pairs whose chosen answer has the larger reward; reward gain: how much further it is "
        "ahead than under the start model, in units of the objective; in brackets 95% intervals"
    )


def side_by_side(samples: Sequence[Mapping[str, str]], title: str, width: int) -> Table | None:
    """Answers of start and policy to questions; `title` is the policy's."""
    if not samples:
        return None
    inner = max(width - 10, 30)  # what frame and padding of three columns leave
    of_question = max(10, inner // 5)
    widths = {"question": of_question, "start": (inner - of_question) // 2}
    widths["trained"] = inner - sum(widths.values())
    names = {"question": "held-out question", "start": "start", "trained": f"trained by {title}"}
    told = f"start and trained: the first {len(samples)} held-out questions by id, unpicked"
    table = Table(title=told, title_justify="left", show_lines=True)
    for name, columns in widths.items():
        table.add_column(names[name], width=columns)
    for sample in samples:
        cells = (clipped(sample[name], columns, _SAMPLE) for name, columns in widths.items())
        table.add_row(*(Text("\n".join(lines)) for lines in cells))
    return table
