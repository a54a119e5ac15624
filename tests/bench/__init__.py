"""Measurements: how fast this package trains, against what, and what the papers' scale would cost.

Nothing here decides a result. Random weights of the published sizes cost what trained ones cost, so
no hub and no license is needed.
"""
