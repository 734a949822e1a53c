"""A directory of masks, each looked up by the name of its photo."""

from collections.abc import Sequence

import numpy as np

from layered_segmentation import images
from layered_segmentation.data import folder
from layered_segmentation.errors import UserError


class MaskFolder:
    """Masks under their photos' names, whatever program wrote them.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: str, what: str):
        """Finds the masks; decodes nothing.

        Args:
            path: The directory, searched with its sub-directories.
            what: What a message calls it, such as a flag.

        Raises:
            UserError: There is no such directory or no image in it, or names are ambiguous.
        """
        self.path = path
        self._what = what
        self._of = folder.by_stem(path, what)

    def require(self, names: Sequence[str]) -> None:
        """Checks that there is a mask for each photo.

        Args:
            names: The photos' names or relative paths; extensions do not count.

        Raises:
            UserError: There is none for some of them.
        """
        lacking = [name for name in names if not folder.match(name, self._of)]
        if lacking:
            named = ", ".join(lacking[:5]) + (", …" if len(lacking) > 5 else "")
            raise UserError(
                f"{self._what}={self.path}: no mask of the same name for {len(lacking)} of "
                f"{len(names)} photos ({named}); where nothing was found, write a mask of 0"
            )

    def read(self, name: str) -> np.ndarray:
        """Reads the mask of one photo, bool [h, w].

        Raises:
            UserError: There is none, or it cannot be read as a mask.
        """
        self.require([name])
        return images.read_mask(folder.match(name, self._of))
