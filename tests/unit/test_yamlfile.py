"""Whatever is wrong in a YAML file is told with its line."""

from __future__ import annotations

import itertools
import os
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

LAUGHS = (
    "a: &a ["
    + "x, " * 10
    + "]\n"
    + "".join(f"{name}: &{name} [" + f"*{before}, " * 10 + "]\n" for before, name in itertools.pairwise("abcdefghij"))
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [" + f"*{before}, " * 20 + f"], {name}: 1}}\n"
    for before, name in itertools.pairwise("abcdefghij")
)


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
        (("bell: {size", "7: {size"), "b.yaml:9: the key '7' is no text without quotes"),
        (("name: red", "name: red\non: 3"), "b.yaml:2: the key 'on' is no text without quotes"),
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
        ("name: a\nwhen: 2026-99-99", "b.yaml:2: not valid YAML: month must be in 1..12"),
        ("name: a\nsize: " + "9" * 5000, "b.yaml:2: not valid YAML: Exceeds the limit"),
        ('name: a\nspare: ["\\ud800"]', "b.yaml:2: not valid YAML: half a character"),
        ("name: a\nwhen: !!timestamp x", "b.yaml:2: not valid YAML: a value is not what its tag says"),
        ("name: a\nwhen: !!int ''", "b.yaml:2: not valid YAML: a value is not what its tag says"),
        ("name: a\nwhen: !!bool x", "b.yaml:2: not valid YAML: a value is not what its tag says"),
        (LAUGHS, "b.yaml:5: with its aliases repeated, more than 100,000 values"),
        (MERGES, "b.yaml:5: with its aliases repeated, more than 100,000 values"),
        ("name: a\nwheels: &w [1, *w]", "b.yaml:2: an alias names what it stands in"),
        ("[" * 1000, "too deep within one another"),
    ],
)
def test_what_is_not_yaml(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Document(text, "b.yaml")
    assert told in str(error.value)


def test_an_alias_and_a_merge_mean_what_they_name() -> None:
    text = "name: red\nwheels:\n  - &w {size: 28, spokes: 36}\n  - *w\n  - {<<: *w, spokes: x}\n"
    assert Document(text.replace("x", "20"), "b.yaml").convert(Bicycle).wheels[2] == Wheel(size=28, spokes=20)
    assert "b.yaml:5: wheels[2].spokes: Expected `int`" in refused(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Document.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("none.yaml")
    (tmp_path / "round.yaml").symlink_to("round.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")  # nobody writes to it: a reader would wait for ever
    for name in ("latin", "folder", "dangling", "round", "pipe"):
        with pytest.raises(ConfigError, match=rf"{name}\.yaml: cannot be read"):
            Document.read(tmp_path / f"{name}.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * 10_000_000)
    with pytest.raises(ConfigError, match=r"large\.yaml: is larger than 1,048,576 bytes"):
        Document.read(tmp_path / "large.yaml")


def test_a_file_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "red.yaml").write_text(GOOD)
    (tmp_path / "linked.yaml").symlink_to("red.yaml")
    assert Document.read(tmp_path / "linked.yaml").convert(Bicycle).name == "red"


def test_did_you_mean() -> None:
    assert did_you_mean("semantc", ["semantic", "scope"]) == " (did you mean 'semantic'?)"
    assert did_you_mean("zzz", ["semantic", "scope"]) == ""
