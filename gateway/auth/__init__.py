"""Who is asking: API keys (hashes only at rest), the admin key, and the anonymous rule of a loopback bind."""

from gateway.auth.caller import ADMIN, ANONYMOUS, Peer, anonymous_allowed, authenticate, bearer, is_admin
from gateway.auth.groups import GROUPS, Group, GroupStore, organisation_field, team_field
from gateway.auth.records import PREFIX, KeyRecord, NewKey, hash_key, public
from gateway.auth.ring import KeyRing
from gateway.auth.store import KeyStore

__all__ = [
    "ADMIN",
    "ANONYMOUS",
    "GROUPS",
    "PREFIX",
    "Group",
    "GroupStore",
    "KeyRecord",
    "KeyRing",
    "KeyStore",
    "NewKey",
    "Peer",
    "anonymous_allowed",
    "authenticate",
    "bearer",
    "hash_key",
    "is_admin",
    "organisation_field",
    "public",
    "team_field",
]
