"""What can't be imported."""

from __future__ import annotations

raise ImportError("its library\nis not there")
