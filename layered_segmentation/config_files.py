"""What any config needs: fields with bounds, the packaged files, YAML differences read strictly.

Nothing here knows the settings themselves; `config.py` declares them.
"""

import dataclasses
import difflib
import enum
import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import omegaconf
from omegaconf import OmegaConf

from layered_segmentation import paths
from layered_segmentation.errors import UserError

POWER_OF_TWO = "a power of two, at least 8"
_INTERVAL = re.compile(r"in ([\[(])([^,]+), ([^\])]+)([\])])")


class Choice(enum.StrEnum):
    """A setting with a few values.

    Members have the names that YAML files use, since OmegaConf reads and writes them by name.
    """

    def __repr__(self) -> str:
        return repr(self.value)


def bounded(default: Any, possible: str) -> Any:
    """Returns a dataclass field whose value is checked by `check_values`.

    Args:
        default: The field's default.
        possible: `at least 1`, `more than 0`, `a multiple of 8`, `POWER_OF_TWO`, or an interval
            such as `in [0, 1)`, whose reason may follow; after `0 or`, 0 is possible too. It is
            part of the error message.
    """
    return dataclasses.field(default=default, metadata={"possible": possible})


def added(default: Any, was: Any, possible: str | None = None) -> Any:
    """Returns a dataclass field that version 0.1.0 did not have.

    Args:
        default: The field's default, the paper's behaviour.
        was: What version 0.1.0 did: the value in a saved config that lacks the field, so that its
            run continues as it began.
        possible: As for `bounded`; None for any value.
    """
    return dataclasses.field(default=default, metadata={"was": was, "possible": possible})


def check_values(config: Any) -> None:
    """Checks every field of a dataclass of dataclasses by itself.

    Raises:
        UserError: A value is out of bounds, or a text cannot be written to a file; the message
            names the field and quotes the value.
    """
    for section in dataclasses.fields(config):
        settings = getattr(config, section.name)
        for field in dataclasses.fields(settings):
            possible, value = field.metadata.get("possible"), getattr(settings, field.name)
            name = f"{section.name}.{field.name}"
            if possible is not None:
                require(_is_within(value, possible), name, value, possible)
            if isinstance(value, str) and not paths.is_utf8(value):
                raise UserError(
                    f"{name}={paths.printable(value)}: it has bytes that are not UTF-8, which a "
                    "config cannot hold; name the file by another path, such as a link"
                )


def require(condition: bool, field: str, value: Any, possible: str) -> None:
    """Raises UserError unless the condition holds; `possible` says what the value must be."""
    if not condition:
        raise UserError(f"{field}={value!r} is not possible; it must be {possible}")


def is_power_of_two(value: int) -> bool:
    """Returns whether a value is `POWER_OF_TWO`."""
    return value >= 8 and value & (value - 1) == 0


def find(name_or_path: str) -> str:
    """Returns the path of a config, by packaged name or by path.

    Raises:
        UserError: There is no such config; the message lists the packaged names.
    """
    if os.path.isfile(name_or_path):
        return name_or_path
    packaged = os.path.join(_packaged_directory(), name_or_path + ".yaml")
    if os.path.isfile(packaged):
        return packaged
    names = packaged_names()
    close = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"--config={name_or_path}: neither a file nor a packaged config; {hint}"
        f"packaged configs: {', '.join(names)}"
    )


def packaged_names() -> list[str]:
    """Returns the names of the configs that come with the package, sorted."""
    found = glob.glob("**/*.yaml", root_dir=_packaged_directory(), recursive=True)
    return sorted(name.removesuffix(".yaml").replace(os.sep, "/") for name in found)


def _packaged_directory() -> str:
    """Returns configs/: inside the installed package, beside it in a checkout."""
    package = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(package, "configs")
    return installed if os.path.isdir(installed) else os.path.join(package, "..", "configs")


def read(schema: type, path: str, overrides: Sequence[str], key_types: Mapping[str, type]) -> Any:
    """Reads a dataclass: its defaults, then a YAML file, then overrides.

    Args:
        schema: The dataclass, whose fields are dataclasses.
        path: A YAML file; empty for none.
        overrides: `section.field=value` strings, later ones win. The value of a text field is
            taken as it is typed; any other is YAML.
        key_types: Type of the keys of each field that is a dictionary, by `section.field`.

    Raises:
        UserError: An unknown field, a value of the wrong type, or something that is not YAML.
    """
    merged: Any = OmegaConf.structured(schema)
    if path:
        given = _load_yaml(path)
        merged = OmegaConf.merge(merged, _earlier_values(schema, given))
        merged = _merge(merged, given, path, key_types)
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UserError(f"--set={override}: write it as --set=section.field=value")
        difference = _parse_override(merged, override)
        merged = _merge(merged, difference, f"--set={override}", key_types)
    try:
        return OmegaConf.to_object(merged)
    except omegaconf.errors.OmegaConfBaseException as error:  # `???`, or `${…}` of nothing
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key}: no usable value: {reason}") from error


def with_defaults(config: Any) -> list[tuple[str, Any, Any]]:
    """Returns `section.field`, value and default of each field, in their order."""
    defaults = dataclasses.asdict(type(config)())
    return [
        (f"{section}.{field}", value, defaults[section][field])
        for section, fields in dataclasses.asdict(config).items()
        for field, value in fields.items()
    ]


def differences(left: Any, right: Any) -> list[str]:
    """Returns one `section.field: left != right` line for each field that differs."""
    lefts, rights = flatten(dataclasses.asdict(left)), flatten(dataclasses.asdict(right))
    absent = "(absent)"
    return [
        f"{key}: {lefts.get(key, absent)!r} != {rights.get(key, absent)!r}"
        for key in sorted(lefts.keys() | rights.keys())
        if lefts.get(key, absent) != rights.get(key, absent)
    ]


def _earlier_values(schema: Any, given: Any) -> dict[str, dict[str, Any]]:
    """Returns what the fields that a saved config lacks were, since it is older than they are.

    A saved config gives every field of its version. A config with differences only is not a saved
    one, and gets the defaults.
    """
    is_mapping = isinstance(given, omegaconf.DictConfig)
    settings: Any = OmegaConf.to_container(given) if is_mapping else {}
    values: dict[str, dict[str, Any]] = {}
    for section in dataclasses.fields(schema):
        held, kind = settings.get(section.name), cast(type, section.type)
        for field in dataclasses.fields(kind):
            if isinstance(held, dict) and field.name in held:
                continue
            if "was" not in field.metadata:
                return {}
            values.setdefault(section.name, {})[field.name] = field.metadata["was"]
    return values


def _load_yaml(path: str) -> Any:
    try:
        return OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from error
    except Exception as error:  # PyYAML's, OmegaConf's, or of deep nesting
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML: {reason}") from error


def _parse_override(schema: Any, override: str) -> Any:
    """Returns the difference that an override makes."""
    key, _, text = override.partition("=")
    section, _, field = key.partition(".")
    known: Any = schema.get(section) if section in schema else None
    has_field = isinstance(known, omegaconf.DictConfig) and field in known
    if has_field and isinstance(known._get_node(field), omegaconf.StringNode):
        # YAML would take `#1` for a comment, `007` for a number and `no` for a truth value.
        return OmegaConf.create({section: {field: text}})
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:
        raise UserError(f"--set={override}: the value is not valid YAML: {error}") from error


def _merge(merged: Any, difference: Any, source: str, key_types: Mapping[str, type]) -> Any:
    if difference is None:
        return merged
    sections = list(merged)
    not_a_config = UserError(f"{source}: a config is a mapping of sections ({', '.join(sections)})")
    if not isinstance(difference, omegaconf.DictConfig):
        raise not_a_config
    try:
        # YAML reads `128:` as a number, a --set as text; each dictionary has one type of key.
        for field, kind in key_types.items():
            rows = OmegaConf.select(difference, field)
            if isinstance(rows, omegaconf.DictConfig):
                keyed = {
                    kind(str(key)) if str(key).isdigit() else key: value
                    for key, value in rows.items()
                }
                OmegaConf.update(difference, field, keyed, merge=False)
        return OmegaConf.merge(merged, difference)
    except omegaconf.errors.ConfigKeyError as error:
        raise UserError(f"{source}: {_unknown_field(merged, str(error.full_key))}") from error
    except omegaconf.errors.OmegaConfBaseException as error:
        field = getattr(error, "full_key", "") or ""
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: {field}: {reason}") from error
    except OverflowError as error:
        raise UserError(f"{source}: a number is far too large") from error
    except (TypeError, ValueError) as error:
        raise not_a_config from error


def _unknown_field(merged: Any, key: str) -> str:
    section, _, field = key.partition(".")
    names = [str(name) for name in merged]
    if section in names and field:
        names = [f"{section}.{name}" for name in merged[section]]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown field {key!r}; {hint}known: {', '.join(names)}"


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested mappings by their dotted path."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_within(value: float, possible: str) -> bool:
    # Each comparison is false for NaN.
    if possible == POWER_OF_TWO:
        return is_power_of_two(int(value))
    if possible.startswith("0 or "):
        return value == 0 or _is_within(value, possible.removeprefix("0 or "))
    if possible.startswith("a multiple of "):
        least = int(possible.removeprefix("a multiple of "))
        return value >= least and value % least == 0
    if possible.startswith("at least "):
        return value >= float(possible.removeprefix("at least "))
    if possible.startswith("more than "):
        return value > float(possible.removeprefix("more than "))
    interval = _INTERVAL.match(possible)
    assert interval is not None, possible
    opening, low, high, closing = interval.groups()
    is_above = value >= float(low) if opening == "[" else value > float(low)
    is_below = value <= float(high) if closing == "]" else value < float(high)
    return is_above and is_below
