"""How numbers become words, and what is left out."""

import pytest

from reports import words
from reports.pages.page import fill
from reports.pages.sections import Section
from reports.tables import Table


@pytest.mark.parametrize(
    ("number", "total", "said"),
    [
        (0, 10, "none of 10 iterations disturbed by other processes"),
        (3, 10, "3 of 10 iterations disturbed by other processes and left out"),
        (10, 10, "all 10 iterations disturbed by other processes, so none left out"),
        (1, 1, "the only iteration disturbed by other processes, so none left out"),
    ],
)
def test_disturbed_iterations_are_left_out_unless_all_are(
    number: int, total: int, said: str
) -> None:
    assert words.disturbed(number, total).replace(words.NBSP, " ") == said


def test_a_table_without_rows_is_left_out() -> None:
    empty = Table(caption="Changes of the pipeline", columns=("Epoch", "Time"), rows=())
    assert empty.numeric == (False, False)
    part = Section(name="part", topic="Part", claim="Nothing changes", reading="", tables=(empty,))
    page = fill(
        name="run", title="run", verdict="It ran.", tiles=[], sections=(part,), summary=None
    )
    assert "Nothing changes" in page and "Changes of the pipeline" not in page
