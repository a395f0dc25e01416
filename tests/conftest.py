"""The same examples at every run: a failure that one run finds is there at the next."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
