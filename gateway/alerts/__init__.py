"""Telling people: :mod:`rules` finds what they should know, :mod:`watch` tells it once, :mod:`channels` carries it."""
