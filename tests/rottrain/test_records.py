"""Values of a record are of its types, wherever they stand."""

from __future__ import annotations

import pytest

from rotdata.rendering.strips import StripStyle
from rottrain import records


def test_a_style_may_name_any_number_of_fallback_fonts() -> None:
    for names in ([], ["Squares"], ["Squares", "mono"]):
        records.check_known(StripStyle, {"fallback": names}, "style")
    with pytest.raises(records.Misfit, match=r"style.fallback\[1\] should be a text, got 3"):
        records.check_known(StripStyle, {"fallback": ["Squares", 3]}, "style")
    with pytest.raises(records.Misfit, match="style.fallback should be a list"):
        records.check_known(StripStyle, {"fallback": "Squares"}, "style")
