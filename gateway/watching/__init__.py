"""Watching from outside the way of a request: has a target become another model, and does routing still fit.

:mod:`prober` asks targets golden prompts and :mod:`conformal` says when the answers are no longer those of the model
that was learned; :mod:`hours` counts what the books' rows say of routing, and :mod:`drift` compares that with before.
"""
