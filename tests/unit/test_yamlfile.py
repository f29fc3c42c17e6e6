"""Whatever is wrong in a YAML file is told with its line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.errors import ConfigError
from gateway.yamlfile import Document, did_you_mean


class Wheel(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    spokes: int = 0


class Bicycle(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    parts: dict[str, Wheel] = {}


GOOD = """\
name: red
wheels:
  - size: 28
    spokes: 36
  - {size: 26}
spare:
  size: 20
parts:
  bell: {size: 1}
"""


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        Document(text, "b.yaml").convert(Bicycle)
    return str(error.value)


def test_a_good_file() -> None:
    bicycle = Document(GOOD, "b.yaml").convert(Bicycle)
    assert bicycle.wheels == (Wheel(size=28, spokes=36), Wheel(size=26))
    assert bicycle.parts["bell"].size == 1


@pytest.mark.parametrize(
    ("path", "key", "line"),
    [("", "name", 1), (".wheels[0]", None, 3), (".wheels[0]", "spokes", 4), (".wheels[1].size", None, 5),
     (".spare", "size", 7), (".parts.bell", None, 9), (".wheels[7]", None, 2), (".nothing", "size", 1)],
)  # fmt: skip
def test_the_line_of_a_path(path: str, key: str | None, line: int) -> None:
    assert Document(GOOD, "b.yaml").line(path, key) == line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("size: 26", "siez: 26"), "b.yaml:5: wheels[1].siez: unknown key 'siez' (did you mean 'size'?)"),
        (("size: 20", "size: 20\n  spoks: 3"), "b.yaml:8: spare.spoks: unknown key 'spoks' (did you mean 'spokes'?)"),
        (("name: red", "name: red\nwheel: 3"), "b.yaml:2: wheel: unknown key 'wheel' (did you mean 'wheels'?)"),
        (("name: red", "name: red\nzzz: 3"), "b.yaml:2: zzz: unknown key 'zzz'"),
        (("size: 28", "size: big"), "b.yaml:3: wheels[0].size: Expected `int`, got `str`"),
        (("bell: {size: 1}", "bell: {siz: 1}"), "unknown key 'siz' (did you mean 'size'?)"),
        (("name: red", "colour: red"), "unknown key 'colour'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(change: tuple[str, str], told: str) -> None:
    assert told in refused(GOOD.replace(*change))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [", "b.yaml:1: not valid YAML"),
        ("name: a\n\tb: c", "b.yaml:2: not valid YAML"),
        ("name: red\nname: blue", "b.yaml:2: the key 'name' stands here twice"),
        ("name: red\nwheels:\n  - size: 1\n    size: 2", "b.yaml:4: the key 'size' stands here twice"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("when: 2026-99-99", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_what_is_not_yaml(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Document(text, "b.yaml")
    assert told in str(error.value)


def test_a_cycle_of_aliases_is_refused_not_followed_for_ever() -> None:
    with pytest.raises(ConfigError):
        Document("name: &a [*a]", "b.yaml").convert(Bicycle)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Document.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        Document.read(tmp_path / "latin.yaml")


def test_did_you_mean() -> None:
    assert did_you_mean("semantc", ["semantic", "scope"]) == " (did you mean 'semantic'?)"
    assert did_you_mean("zzz", ["semantic", "scope"]) == ""
