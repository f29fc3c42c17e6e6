"""``gateway serve``: one command that starts, watches and stops every part of a gateway on one machine."""
