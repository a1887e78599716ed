"""What an upload has begun and what it has sent, kept in a file between calls.

book = Journal("run/neuronpedia.jsonl")
book.write("sending", {"www.neuronpedia.org/gpt2-small/6-res-mine/17": content})
book.sent.get(place) == content
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

__all__ = ["Journal"]


class Journal:
    """A line before each call and one after it, with the hash of each latent's content.

    Attributes:
        path: the file.
        begun: by place what was about to be sent.
        sent: by place what has arrived.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.begun: dict[str, str] = {}
        self.sent: dict[str, str] = {}
        self._between = ""
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            self._between = "" if text.endswith("\n") or not text else "\n"
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the last line of a process that was killed
                (self.sent if entry["what"] == "sent" else self.begun).update(entry["latents"])

    def write(self, what: Literal["sending", "sent"], latents: Mapping[str, str]) -> None:
        """Note some latents; they are on the disk when this returns."""
        if not latents:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._between + json.dumps({"what": what, "latents": latents}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._between = ""
        (self.sent if what == "sent" else self.begun).update(latents)
