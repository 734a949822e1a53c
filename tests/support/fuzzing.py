"""Strategies for damaged and hostile input, and what every reader promises of it.

A test takes a share of the inputs: a few of them in the quick tier, always the same ones; with
LAYERSEG_FUZZ=100000 that many over all tests, new ones each time.
"""

import collections
import contextlib
import functools
import json
import os
import tempfile
import time

import hypothesis
from hypothesis import strategies as st

from layered_segmentation.benchmarks import memory
from layered_segmentation.errors import UserError

TOTAL = int(os.environ.get("LAYERSEG_FUZZ", "0"))
COUNTS = collections.Counter()  # inputs by test
REFUSED = collections.Counter()  # of these, the ones that ended in a UserError
SLOWEST = {}  # seconds by test

_CAN_MEASURE = os.path.exists("/proc/self/clear_refs")
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40)


def fuzz(strategy, share, quick=10):
    """Decorates a test of one argument, `data`.

    Args:
        strategy: Of the argument.
        share: Of LAYERSEG_FUZZ, in [0, 1].
        quick: Number of inputs in the quick tier.
    """

    def decorate(test):
        @functools.wraps(test)
        def counted(*arguments, data, **options):
            COUNTS[test.__name__] += 1
            start = time.perf_counter()
            test(*arguments, data=data, **options)
            spent = time.perf_counter() - start
            SLOWEST[test.__name__] = max(spent, SLOWEST.get(test.__name__, 0))

        settings = hypothesis.settings(
            max_examples=max(quick, round(share * TOTAL)) if TOTAL else quick,
            derandomize=not TOTAL,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # no shrinking: slow
        )
        return settings(hypothesis.given(data=strategy)(counted))

    return decorate


@contextlib.contextmanager
def refused(name, most=64):
    """Lets the block end with a UserError, and with no other; bounds the memory it takes.

    Args:
        name: Of the test, for the counts.
        most: Megabytes of memory that it may take at its peak.
    """
    if _CAN_MEASURE:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
    before = memory.megabytes()
    try:
        yield
    except UserError as error:
        REFUSED[name] += 1
        text = str(error)
        assert text and len(text) < 20_000, len(text)
    if _CAN_MEASURE:
        taken = memory.megabytes("VmHWM") - before
        assert taken < most, f"took {taken:.0f} MB, more than {most}"


@contextlib.contextmanager
def confined():
    """Yields a directory to work in; afterwards nothing next to it may have changed."""
    with tempfile.TemporaryDirectory() as root:
        outside = os.path.join(root, "outside")
        inside = os.path.join(root, "deep", "inside")
        os.makedirs(os.path.join(outside, "folder"))
        os.makedirs(inside)
        with open(os.path.join(outside, "file"), "w") as file:
            file.write("as before")
        before = _listing(root, inside)
        yield inside
        after = _listing(root, inside)
        assert after == before, sorted(set(after) ^ set(before))


def _listing(root, without):
    found = {}
    for folder, folders, names in os.walk(root):
        if folder == without:
            folders.clear()
            continue
        for name in [*folders, *names]:
            path = os.path.join(folder, name)
            content = None
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, root)] = (os.lstat(path).st_mode, content)
    return found


def report():
    """Returns lines on how many inputs were tried."""
    lines = [
        f"{name}: {count:,} inputs, {REFUSED[name]:,} refused, slowest {SLOWEST.get(name, 0):.2f} s"
        for name, count in sorted(COUNTS.items())
    ]
    return [*lines, f"fuzzed with {sum(COUNTS.values()):,} inputs"]


@st.composite
def damaged(draw, originals, most=6):
    """Bytes of one of the originals with a few faults: flips, cuts, numbers, parts of others."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, most))):
        length = len(content)
        # Headers are at the beginning, directories at the end.
        near = min(length, 64)
        at = draw(
            st.one_of(
                st.integers(0, near), st.integers(length - near, length), st.integers(0, length)
            )
        )
        kind = draw(st.integers(0, 6))
        if kind == 0 and at < length:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            size = draw(st.sampled_from([1, 2, 4, 8]))
            value = draw(st.sampled_from(_EXTREMES)) & (256**size - 1)
            order = draw(st.sampled_from(["little", "big"]))
            content[at : at + size] = value.to_bytes(size, order)
        elif kind == 3:
            content[at:at] = draw(st.binary(max_size=40))
        elif kind == 4:
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == 5:
            other = draw(st.sampled_from(originals))
            content[at:] = other[draw(st.integers(0, len(other))) :]
        else:
            part = content[at : at + draw(st.integers(1, 200))]
            content[at:at] = part * draw(st.integers(1, 4))
    return bytes(content)


numbers = st.one_of(
    st.integers(-3, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([10**400, -(10**25), 2**63, 2**31, 0.5, True, 1e308]),
)
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "~", "~nobody/x", "../../outside/file", "/", "a\0b", "\ud800", "é" * 300]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
_DEEP = (b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"", b"\xff\xfe", b"9" * 5000)


@st.composite
def changed(draw, examples):
    """One of the JSON values with a few parts removed, added or replaced."""
    tree = json.loads(json.dumps(draw(st.sampled_from(examples))))
    for _ in range(draw(st.integers(0, 4))):
        node, parent, key = tree, None, None
        while isinstance(node, dict | list) and node and draw(st.integers(0, 3)):
            parent = node
            keys = sorted(node) if isinstance(node, dict) else range(len(node))
            key = draw(st.sampled_from(list(keys)))
            node = node[key]
        if parent is None:
            if draw(st.integers(0, 5)) == 0:
                return draw(values)
            continue
        if draw(st.booleans()):
            parent[key] = draw(values)
        elif draw(st.booleans()):
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(texts)] = draw(values)
        else:
            parent.append(draw(values))
    return tree


def encoded(tree):
    """The bytes of a JSON value, also one that JSON forbids."""
    return json.dumps(tree).encode()


def json_files(*examples):
    """Bytes of JSON files: changed and damaged ones, and anything."""
    whole = [encoded(example) for example in examples]
    return st.one_of(
        changed(examples).map(encoded),
        changed(examples).map(encoded),
        damaged(whole),
        values.map(encoded),
        st.binary(max_size=100),
        st.sampled_from(_DEEP),
    )


def write(directory, name, content):
    """Writes a file and the directories that it needs; returns its path."""
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path
