"""Where the work of a site runs.

Read `work` (what a round asks and answers), `executor` (the contract), `site_work` (what happens at a site) and
`site_memory` (what a site keeps); then one file per executor. `isolation` and `signals` keep a site's work apart
from the process that it runs in.
"""

from fml_lightning.executors.executor import Executor
from fml_lightning.executors.serial import SerialExecutor
from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work

__all__ = ["Executor", "SerialExecutor", "SiteFailure", "SiteMemory", "SiteUpdate", "Work"]
