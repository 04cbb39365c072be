"""transformers' base class of hand-written encoders, less the hub: it reads folders only.

In a file of its own because importing it imports transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from .places import find_folder

_OF_HUBS = ("use_auth_token", "cache_dir", "revision", "token")


class BertPreTrainedModel(transformers.BertPreTrainedModel):
    """As in transformers, but `from_pretrained` takes folders of this machine."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load from a folder; options that are of hubs are left out.

        Raises:
            ModelNotFound: nothing lies there.
        """
        for name in _OF_HUBS:
            kwargs.pop(name, None)
        folder = str(find_folder(name_or_path))
        return super().from_pretrained(folder, *args, local_files_only=True, **kwargs)
