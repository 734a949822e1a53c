"""Uploads a preset with its card and checksums to a model hub, through KerasHub's own upload."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import model_card, presets

_HUGGING_FACE = re.compile(r"hf://[\w.-]+/[\w.-]+")
_KAGGLE = re.compile(r"kaggle://[\w.-]+/[\w.-]+/[\w.-]+/[\w.-]+")


def require_address(address: str) -> None:
    """Refuses an address that no hub would take.

    Raises:
        UserError: It is neither hf://OWNER/NAME nor kaggle://OWNER/MODEL/keras/VARIATION.
    """
    if not _HUGGING_FACE.fullmatch(address) and not _KAGGLE.fullmatch(address):
        raise UserError(
            f"--to={address}: it must be hf://OWNER/NAME or kaggle://OWNER/MODEL/keras/VARIATION"
        )


@contextmanager
def prepared(preset: str, card: str, place: str) -> Iterator[str]:
    """Lays out what is uploaded, in a directory of its own, and checks it.

    Args:
        preset: The preset's directory; it stays as it is.
        card: The card.
        place: Where it comes from, for messages.

    Yields:
        A temporary directory with the preset's files, the card and fresh checksums.

    Raises:
        UserError: The card is incomplete, or the copy is not a segmenter of ours.
    """
    from layered_segmentation.segmenter import segmenter as segmenters

    model_card.require_complete(card, place)
    with TemporaryDirectory() as temporary:
        copy = os.path.join(temporary, "preset")
        shutil.copytree(preset, copy)
        with open(os.path.join(copy, presets.CARD), "w", encoding="utf-8") as file:
            file.write(card)
        presets.write_checksums(copy)
        segmenters.load(copy)
        yield copy


def upload(directory: str, address: str, private: bool = False, overwrite: bool = False) -> None:
    """Uploads a directory that `prepared` made.

    Args:
        directory: It is used up: an upload may change it.
        address: As `require_address` has it.
        private: Whether a repository that is made anew is private; Hugging Face only.
        overwrite: Whether a model that is there gets a new version on top. Both hubs keep the
            older ones.

    Raises:
        UserError: There is a model already, or the hub refuses.
    """
    import keras_hub

    require_address(address)
    try:
        if address.startswith("hf://"):
            _lead_with_the_card(directory, address.removeprefix("hf://"), private, overwrite)
        keras_hub.upload_preset(address, directory)
    except UserError:
        raise
    except Exception as error:  # the hubs' libraries raise whatever their network libraries do
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--to={address}: the upload failed: {reason}. Is this machine online and logged in "
            "(`hf auth login`, or a Kaggle API token), and is the name yours to write to?"
        ) from error


def _lead_with_the_card(directory: str, name: str, private: bool, overwrite: bool) -> None:
    """Uploads the card first: where there is none, KerasHub puts one of its own in its place."""
    import huggingface_hub

    is_taken = huggingface_hub.repo_exists(name) and huggingface_hub.file_exists(
        name, "config.json"
    )
    if is_taken and not overwrite:
        raise UserError(
            f"--to=hf://{name}: there is a model already; add --overwrite to put this one on top "
            "of it (the older one stays in its history)"
        )
    huggingface_hub.create_repo(name, private=private, exist_ok=True)
    huggingface_hub.upload_file(
        path_or_fileobj=os.path.join(directory, presets.CARD),
        path_in_repo=presets.CARD,
        repo_id=name,
    )
