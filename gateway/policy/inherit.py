"""``extends``: a policy that takes over another one and says only what is different.

Its keys win, those of ``cache`` and ``contents`` one by one. Its rules come first; of the other's rules follow those
whose name it does not use itself. An experiment is not taken over: an arm that extends the control would be split
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.policy.engine import Origin
from gateway.policy.model import Policy, read_policy
from gateway.yamlfile import Document, did_you_mean


@dataclass(frozen=True, slots=True)
class Found:
    """A policy as it is meant, the file that names it, and where each of its rules stands."""

    policy: Policy
    document: Document
    origins: tuple[Origin, ...]


def inherited(documents: Iterable[Document], beside: Sequence[Path] = ()) -> dict[str, Found]:
    """The policies of these files by name. ``beside``: files whose policies they may extend as well.

    Raises:
        ConfigError: a file is wrong, two policies have one name, or one extends what is not there or itself.
    """
    written: dict[str, Found] = {}
    for document in documents:
        found = _found(document)
        if found.policy.name in written:
            other = written[found.policy.name].document.file
            raise found.document.error(f"policy '{found.policy.name}' is already defined in {other}", "", "name")
        written[found.policy.name] = found
    if any(found.policy.extends not in (None, *written) for found in written.values()):
        others = (_found(Document.read(path)) for path in beside)
        known = {found.policy.name: found for found in others} | written
    else:
        known = written
    return {name: _whole(found, known, (name,)) for name, found in written.items()}


def _found(document: Document) -> Found:
    policy = read_policy(document)
    origins = tuple(Origin(document, f".rules[{index}]") for index in range(len(policy.rules)))
    return Found(policy, document, origins)


def _whole(found: Found, written: Mapping[str, Found], line: tuple[str, ...]) -> Found:
    """``line``: the policies that led here, so that a circle is noticed."""
    above = found.policy.extends
    if above is None:
        return found
    if above in line:
        raise found.document.error(f"extends itself: {' → '.join((*line, above))}", "", "extends")
    if above not in written:
        raise found.document.error(f"no policy is called '{above}'{did_you_mean(above, written)}", "", "extends")
    return _merged(found, _whole(written[above], written, (*line, above)))


def _merged(found: Found, base: Found) -> Found:
    said: dict[str, Any] = found.document.value
    values = {
        name: getattr(base.policy if name not in said else found.policy, name) for name in Policy.__struct_fields__
    }
    own = {rule.name for rule in found.policy.rules}
    kept = [index for index, rule in enumerate(base.policy.rules) if rule.name not in own]
    values["rules"] = (*found.policy.rules, *(base.policy.rules[index] for index in kept))
    for section in ("cache", "contents"):
        written = getattr(found.policy, section)
        own_keys = {name: getattr(written, name) for name in said.get(section) or {}}
        values[section] = msgspec.structs.replace(getattr(base.policy, section), **own_keys)
    values["extends"], values["experiment"] = found.policy.extends, found.policy.experiment
    origins = (*found.origins, *(base.origins[index] for index in kept))
    return Found(Policy(**values), found.document, origins)
