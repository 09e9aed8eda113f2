"""Preprocessing: from a machine's signals to what the network sees.

Read `features` for the contract; `spectral` and `time_domain` are the features there are.
"""

from fml_lightning.preprocessing.features import Column, Concat, Features, RawWindows
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.time_domain import TimeDomain

__all__ = ["Column", "Concat", "Features", "LogBandPowers", "RawWindows", "TimeDomain"]
