"""How a run over a library works: made by a command or a job, and read by each kind of run."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.media.clip import DecodeLimits
from service.library.journal import Journal
from service.library.object_cache import ObjectCache
from service.library.parts import WHOLE, Part
from service.library.previews import Previews
from service.library.report import OnProgress
from service.library.scanning import NO_LINKED_FOLDERS, LinkRules
from service.system.caller import Caller


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How one run works. `objects` has the local copies of objects, which are not indexed without."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """What a file may ask of the decoder."""
    on_progress: OnProgress | None = None
    journal: Journal = field(default_factory=Journal)
    """What is remembered of files beyond the run; by default nothing."""
    stop: Caller = field(default_factory=Caller)
    """Ends the run early when it leaves."""
    verify: bool = False
    """Read every file again."""
    links: LinkRules = NO_LINKED_FOLDERS
    part: Part = WHOLE
    """Which of the files."""
    previews: Previews | None = None
    """Keeps what files look and sound like at a glance."""
    objects: ObjectCache | None = None
