"""Exported programs of torch from files, without a line of code that would run.

``archive`` the members of the file, each read once · ``program`` from their JSON and numbers to a network ·
``operators`` what may be called · ``guards`` conditions on sizes, parsed, never evaluated · ``exported`` the network.
"""

from backlight.programs.archive import Archive
from backlight.programs.exported import ExportedNetwork
from backlight.programs.program import build

__all__ = ["Archive", "ExportedNetwork", "build"]
