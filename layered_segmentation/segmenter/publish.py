"""Uploads a preset with its model card and checksums to a model hub, through KerasHub."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from layered_segmentation import paths
from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import model_card, preset_files

_HUGGING_FACE = re.compile(r"hf://[\w.-]+/[\w.-]+")
_KAGGLE = re.compile(r"kaggle://[\w.-]+/[\w.-]+/[\w.-]+/[\w.-]+")


def require_address(address: str) -> None:
    """Raises a UserError unless an address is a hub's."""
    if not _HUGGING_FACE.fullmatch(address) and not _KAGGLE.fullmatch(address):
        raise UserError(
            f"--to={address}: must be hf://OWNER/NAME or kaggle://OWNER/MODEL/keras/VARIATION"
        )


@contextmanager
def prepared(preset: str, card: str, place: str) -> Iterator[str]:
    """Copies a preset with its card for the upload, and checks that the copy loads.

    Only the files of `preset_files.SHARED` are copied: a preset's directory may hold anything.

    Args:
        preset: The preset's directory; not modified.
        card: The model card.
        place: The card's file, for error messages.

    Yields:
        A temporary directory with the preset's files, the card and new checksums.

    Raises:
        UserError: The card is incomplete, a file is a link or contains a path of this machine, or
            the copy is not a `LayeredSegmenter`.
    """
    from layered_segmentation.segmenter import presets

    model_card.require_complete(card, place)
    with TemporaryDirectory() as temporary:
        copy = os.path.join(temporary, "preset")
        os.mkdir(copy)
        for name in preset_files.SHARED:
            _copy(os.path.join(preset, name), os.path.join(copy, name))
        with open(os.path.join(copy, preset_files.CARD), "w", encoding="utf-8") as file:
            file.write(card)
        preset_files.write_checksums(copy)
        presets.load(copy)
        yield copy


def left_out(preset: str) -> list[str]:
    """Returns the names in a preset's directory that are not published, sorted."""
    return sorted(set(os.listdir(preset)) - set(preset_files.SHARED))


def _copy(path: str, to: str) -> None:
    """Copies a file, if there is one; a link could lead anywhere."""
    if os.path.islink(path):
        raise UserError(
            f"{path}: is a link; publish a copy with the file itself (`cp -rL` makes one)"
        )
    if not os.path.lexists(path):
        return
    if not os.path.isfile(path):
        raise UserError(f"{path}: is not a regular file; remove it")
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            paths.require_no_paths(file.read(), path)
    shutil.copyfile(path, to, follow_symlinks=False)


def upload(directory: str, address: str, private: bool = False, overwrite: bool = False) -> None:
    """Uploads a directory from `prepared`.

    Args:
        directory: The directory; the upload may modify it.
        address: An address that `require_address` accepts.
        private: Whether a new repository is private; Hugging Face only.
        overwrite: Whether to upload a new version if the model exists. Both hubs keep the older
            versions.

    Raises:
        UserError: The model exists and `overwrite` is off, or the upload fails.
    """
    import keras_hub

    require_address(address)
    try:
        if address.startswith("hf://"):
            _upload_card_first(directory, address.removeprefix("hf://"), private, overwrite)
        keras_hub.upload_preset(address, directory)
    except UserError:
        raise
    except Exception as error:  # the hubs' libraries pass on the errors of their network libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--to={address}: the upload failed: {reason}. Check that this machine is online and "
            "logged in (`hf auth login`, or a Kaggle API token) and may write to this address"
        ) from error


def _upload_card_first(directory: str, name: str, private: bool, overwrite: bool) -> None:
    """Uploads the card before the preset: KerasHub writes its own card if there is none."""
    import huggingface_hub

    is_taken = huggingface_hub.repo_exists(name) and huggingface_hub.file_exists(
        name, "config.json"
    )
    if is_taken and not overwrite:
        raise UserError(
            f"--to=hf://{name}: the model exists already; add --overwrite to upload a new version "
            "(the history keeps the older one)"
        )
    huggingface_hub.create_repo(name, private=private, exist_ok=True)
    huggingface_hub.upload_file(
        path_or_fileobj=os.path.join(directory, preset_files.CARD),
        path_in_repo=preset_files.CARD,
        repo_id=name,
    )
