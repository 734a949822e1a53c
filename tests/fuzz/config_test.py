"""Configs: YAML files and settings of the command line."""

import dataclasses

import fuzzing
from hypothesis import strategies as st

from layered_segmentation import config as configs

WHOLE = configs.to_yaml(configs.Config()).encode()
_DIFFERENCES = [
    b"gan: {resolution: 16, shift: 0.1}\n", b"schedule:\n  batch: {8: 16, 16: 8}\n",
    b"train: {keep_stages: [8], precision: mixed_bfloat16}\ndata: {path: ~/photos}\n", WHOLE,
    b"student: {width: ${gan.max_channels}}\n",
]  # fmt: skip
_BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
)
_HOSTILE = (
    _BOMB, b"data: " + _BOMB.replace(b"\n", b"\n  "), b"&a [*a]", b"a: &a {b: *a}", b"[" * 2000,
    b"{a: " * 2000, b"gan: &g {shift: 0.1}\nencoder: *g", b"!!python/object/apply:os.system ['x']",
    b"data: !!python/name:os.system ''", b"gan: {resolution: ${oc.env:HOME}}", b"data: {path: ???}",
    b"data: {path: ${oc.decode:${.name}}}", b"data: {path: ${data.path}}", b"<<: {gan: {}}",
    b"gan: null", b"null", b"- 1", b"--- 1\n--- 2", b"%YAML 9.9\n---\n", b"? [a]\n: b",
    b"gan: {? {} : 1}",
    b"schedule: {batch: {8: 16, '8': 4}}", b"schedule: {batch: {2: 1}}", b"gan: {resolution: 0x10}",
    b"gan: {mixing: .nan}", b"gan: {mixing: 1e999}", b"gan: {resolution: 1_0}",
    b"\xef\xbb\xbfgan: {}",
    b"data: {limit: 2021-01-01}", b"train: {seed: 1:30}", b"data: {path: \"\\ud800\"}",
)  # fmt: skip
_files = st.one_of(
    fuzzing.damaged(_DIFFERENCES, most=4),
    fuzzing.damaged(list(_HOSTILE), most=2),
    st.sampled_from(_HOSTILE),
    st.binary(max_size=60),
)

_FIELDS = [
    f"{section}.{field}"
    for section, fields in configs.dataclasses.asdict(configs.Config()).items()
    for field in fields
]
_keys = st.one_of(
    st.sampled_from(_FIELDS),
    st.sampled_from(_FIELDS).map(lambda key: f"{key}.8"),
    st.sampled_from(
        [
            "",
            ".",
            "gan",
            "gan.",
            ".gan",
            "gan..shift",
            "gan[0]",
            "a.b.c",
            "gan.shift[0]",
        ]
    ),
    st.text(max_size=12),
)
_values = st.one_of(
    fuzzing.scalars.map(str),
    st.text(max_size=20),
    st.sampled_from(
        ["", "[]", "{}", "[8, 16]", "{8: 4}", "null", "~", "~nobody/x", "${gan.shift}", "${",
         "${x}",
         "1e999", "nan", "-0", "9" * 400, "0x10", "1_0", "${oc.env:HOME}", "???", "*", "&a",
         "[" * 500,
         "\ud800", "{a: " * 300, "!!python/object:os.system {}", "#", "2**5", "on", "no", "007"]
    ),
)  # fmt: skip
_sets = st.lists(
    st.one_of(st.builds("{}={}".format, _keys, _values), st.text(max_size=20)), max_size=3
)


@fuzzing.fuzz(_files, share=0.03, quick=25)
def test_files(data):
    with fuzzing.confined() as directory, fuzzing.refused("test_files", 32):
        path = fuzzing.write(directory, "a.yaml", data)
        _require_usable(configs.load(path))


@fuzzing.fuzz(st.tuples(_files, _sets), share=0.04, quick=25)
def test_settings(data):
    content, overrides = data
    with fuzzing.confined() as directory:
        with fuzzing.refused("test_settings", 32):
            _require_usable(configs.load("", overrides))
        with fuzzing.refused("test_settings", 32):
            path = fuzzing.write(directory, "a.yaml", content)
            configs.section_overrides(path, "gan")
        with fuzzing.refused("test_settings", 32):
            configs.load(f"quickstart{overrides[0] if overrides else ''}")


def _require_usable(config):
    """What is accepted can be saved, and read back as it is."""
    from layered_segmentation import schedule

    with fuzzing.confined() as directory:
        path = f"{directory}/config.yaml"
        configs.save(config, path)
        assert configs.load(path) == config
        assert configs.is_saved(path)
    absolute = configs.with_absolute_paths(config)
    student = config.gan.background_student
    assert dataclasses.replace(absolute.gan, background_student=student) == config.gan
    assert schedule.stages(config)[-1].resolution == config.gan.resolution
