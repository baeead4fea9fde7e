"""The values of one column, reports × layers, which grows in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Grid:
    """One value per report and layer, in single precision; NaN where there is none.

    Example:
        >>> grid = Grid()
        >>> grid.append([0, 1], [2.0, 3.0], 2)
        >>> grid.append([1], [4.0], 3)
        >>> grid.rows().tolist()
        [[2.0, 3.0, nan], [2.0, 4.0, nan]]
    """

    def __init__(self) -> None:
        self._values: Floats = np.full((0, 0), np.nan, np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, places: npt.ArrayLike, values: npt.ArrayLike, layers: int) -> None:
        """Add a report; layers without a value in it keep that of the report before.

        Args:
            places: indices of the layers that have a value.
            values: one for each of them.
            layers: number of layers so far.
        """
        self._reserve(self._count + 1, layers)
        if self._count:
            self._values[self._count] = self._values[self._count - 1]
        self._values[self._count, np.asarray(places, int)] = values
        self._count += 1

    def clear(self, places: Sequence[int]) -> None:
        """Take the values of some layers out of the latest report.

        Args:
            places: indices of the layers.
        """
        self._values[self._count - 1, list(places)] = np.nan

    def cut(self, count: int) -> None:
        """Keep the first reports only.

        Args:
            count: how many.
        """
        self._values[count : self._count] = np.nan
        self._count = min(self._count, count)

    def rows(self, start: int = 0) -> Floats:
        """The values from a report on.

        Args:
            start: index of the report.
        """
        return self._values[start : self._count]

    def _reserve(self, reports: int, layers: int) -> None:
        height, width = self._values.shape
        if reports <= height and layers <= width:
            return
        grown = np.full((height if reports <= height else 2 * reports, max(width, layers)), np.nan, np.float32)
        grown[: self._count, :width] = self._values[: self._count]
        self._values = grown
