"""Presets: their files damaged, their sizes and weights hostile."""

import json
import os
import tempfile

import fuzzing
import tiny_networks
from hypothesis import strategies as st

from layered_segmentation.segmenter import preset_files, presets


def _preset():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "preset")
        presets.save(tiny_networks.random_student(2, 8), path, card="# A card\n")
        return {
            name: open(os.path.join(path, name), "rb").read() for name in sorted(os.listdir(path))
        }


FILES = _preset()
_CONFIGS = sorted(name for name in FILES if name.endswith(".json"))
_WEIGHTS = sorted(name for name in FILES if name.endswith(".h5"))


def _change_of(name):
    if name in _CONFIGS:
        return fuzzing.json_files(json.loads(FILES[name]))
    return fuzzing.damaged([FILES[name]], most=4)


_changes = st.lists(
    st.sampled_from([*_CONFIGS, *_WEIGHTS]).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(_change_of(name), st.none()))
    ),
    min_size=1,
    max_size=2,
)


def _write(directory, changes, signed):
    """Writes the preset with the changes; `signed` as its author would, with right checksums."""
    for name, content in {**FILES, **dict(changes)}.items():
        if content is not None and not (signed and name == preset_files.CHECKSUMS):
            fuzzing.write(directory, name, content)
    if signed:
        preset_files.write_checksums(directory)


@fuzzing.fuzz(st.tuples(_changes, st.booleans()), share=0.06, quick=25)
def test_checks(data):
    changes, signed = data
    with fuzzing.confined() as directory, fuzzing.refused("test_checks", 32):
        _write(directory, changes, signed)
        found = preset_files.find(directory)

        def get(name):
            path = os.path.join(found, name)
            return path if os.path.isfile(path) else None

        preset_files.require_sane("a preset", get)
        if not signed and get(preset_files.CHECKSUMS):
            names = {name for name, content in dict(changes).items() if content != FILES[name]}
            assert not names - {preset_files.CARD, preset_files.CHECKSUMS}
        preset_files.keep_edited_card(directory, directory)


@fuzzing.fuzz(_changes, share=0.002, quick=3)
def test_loading(data):
    with fuzzing.confined() as directory, fuzzing.refused("test_loading", 300):
        _write(directory, data, signed=True)
        segmenter = presets.load(directory)
        assert segmenter.resolution > 0
