"""What keeps an elastic run from starting."""

from __future__ import annotations


class ElasticError(ValueError):
    """The run that was asked for cannot be made so; the message says what would work."""

    is_bad_input = True
