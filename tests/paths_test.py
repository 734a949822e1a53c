import os

import pytest

from layered_segmentation import paths
from layered_segmentation.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the detector /home/me/nets/rcnn, class 3", "the detector rcnn, class 3"),
        ("/photos: 7", "photos: 7"),
        ("~/a/b and ~you/c", "b and c"),
        (r"C:\Users\me\cars.jpg", "cars.jpg"),
        ("(/a/b/c.png)", "(c.png)"),
        ("--images=/data/me/x", "--images=x"),
        ("7 images/s, 1/2 and a / b", "7 images/s, 1/2 and a / b"),
        ("hf://owner/name and https://a.org/b/c", "hf://owner/name and https://a.org/b/c"),
        ("photos/cars", "photos/cars"),
        ("", ""),
    ],
)
def test_absolute_paths_are_cut_to_their_last_parts(text, shown):
    assert paths.without_folders(text) == shown


def test_names_of_paths(tmp_path):
    assert paths.name_of(str(tmp_path / "cars") + "/") == "cars"
    assert paths.name_of("layered_unet_flowers_64") == "layered_unet_flowers_64"
    assert paths.name_of("hf://owner/name") == "hf://owner/name"
    assert paths.name_of("") == ""


def test_the_home_and_the_working_directory_are_private(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for path in ("/home/me/photos", "'/home/me'", f"{tmp_path}/x"):
        with pytest.raises(UserError, match=r"card\.md: line 2 contains .*, a path of this machi"):
            paths.require_no_paths(f"first\n{path}", "card.md")
    paths.require_no_paths("/home/meadow, /usr/share/photos", "card.md")


def test_home_is_expanded_and_names_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.expand("~/photos") == str(tmp_path / "photos")
    assert paths.absolute("~") == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert paths.absolute("photos") == str(tmp_path / "photos")
    for text in ("", "hf://user/model", "gs://bucket/photos"):
        assert paths.expand(text) == paths.absolute(text) == text
    assert paths.expand("layered_unet_flowers_64") == "layered_unet_flowers_64"
    assert paths.expand("./~photos") == "./~photos"
    with pytest.raises(UserError, match=r"~nobody-1/x: there is no user 'nobody-1'; .* \./~nobody"):
        paths.expand("~nobody-1/x")


def test_control_characters_are_shown_as_escapes():
    assert paths.printable("a\nb\x1b[31m é/ü x\udce9'") == "a\\nb\\x1b[31m é/ü x\\udce9'"


def test_names_that_are_not_utf8():
    assert not paths.is_utf8(os.fsdecode(b"caf\xe9")) and paths.is_utf8("café\n")
