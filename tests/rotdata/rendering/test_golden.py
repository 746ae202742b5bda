"""The renderer draws the golden pictures that an eye has judged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.make_golden import FOLDER, PICTURES, draw


@pytest.mark.parametrize("name", PICTURES)
def test_golden_picture(name: str) -> None:
    with Image.open(FOLDER / f"{name}.png") as golden:
        np.testing.assert_array_equal(draw(name), np.asarray(golden), err_msg="look at both, then `make golden`")


def test_every_golden_picture_is_drawn() -> None:
    assert {path.stem for path in FOLDER.glob("*.png")} == set(PICTURES)
