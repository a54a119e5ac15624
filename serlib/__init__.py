"""Speech emotion recognition with multi-task learning: the package behind the book.

Importing it loads nothing else; import the module that you need: ``from serlib import metrics``.
"""

from pathlib import Path

__version__ = "0.1.0"
PROFILES = ("smoke", "demo", "open", "full")  # the tiers of everything that runs
# The corpora's cards and the demo corpus's manifest: in an installed package, or beside a checkout.
DATA = Path(__file__).with_name("data_manifests")
if not DATA.is_dir():
    DATA = Path(__file__).parents[1] / "data_manifests"
