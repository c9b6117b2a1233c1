"""How numbers become words."""

import pytest

from reports import words


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
