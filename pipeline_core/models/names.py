"""Names of files and folders that others chose: one rule for what every system can hold safely.

Any script is welcome; names are refused, never repaired.
"""

from __future__ import annotations

import re
import unicodedata

_FORBIDDEN = set('<>:"|?*\\/')
_WINDOWS_DEVICES = re.compile(
    r"(con|prn|aux|nul|com[\d\u00b9\u00b2\u00b3]|lpt[\d\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE
)
# Controls, line breaks, half surrogates, and invisible marks such as text direction overrides ...
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # ... but for these: parts of Persian words, of emoji


def fault_of_part(part: str, max_bytes: int = 255) -> str | None:
    """Say why one part of a path is refused, None where it is fine; `max_bytes` counts UTF-8."""
    if not part:
        return "it is empty, absolute, or has an empty part"
    if part[0] in ".~ " or part[-1] in ". ":
        return "a part starts with a dot, a tilde or a space, or ends with a dot or a space"
    if any(char in _FORBIDDEN for char in part):
        return 'it holds one of \\ < > : " | ? *'
    if any(unicodedata.category(char) in _UNSEEN and char not in _JOINERS for char in part):
        return "it holds control characters, line breaks, invisible marks or broken Unicode"
    if _WINDOWS_DEVICES.fullmatch(part):
        return "a part is a device name on Windows"
    if len(part.encode()) > max_bytes:
        return f"a part is longer than {max_bytes} bytes"
    return None
