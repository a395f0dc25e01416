"""The same examples at every run, so that a failure of one run is there at the next; and no guard, so that faults of rules show."""

import os
import tempfile

from hypothesis import settings

os.environ["ONNXPRUNE_GUARD"] = "0"  # for what runs in processes of its own, too
os.environ["ONNXPRUNE_CLOCK_SECONDS"] = "0.2"  # no test asks how fast a model is
CACHES = tempfile.TemporaryDirectory(prefix="onnxprune-")  # it goes when the tests end
os.environ["XDG_CACHE_HOME"] = CACHES.name  # nor does one leave timings behind


settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
