"""Speech emotion recognition with multi-task learning: the package behind the book.

Importing it loads nothing else; import the module that you need: ``from serlib import metrics``.
"""

__version__ = "0.1.0"
