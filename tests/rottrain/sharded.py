"""rottrain with FSDP on CPUs: `python -m tests.rottrain.sharded stage1 ...` in each of several processes.

accelerate takes FSDP for GPUs alone. torch has it on CPUs too, so accelerate is told here that it was taken.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from rottrain.cli import main
from tests.rottrain.held import hold

HELD = "ROT_TEST_HELD"
"""Set where the first process is to wait, as in held.py."""
_begin = AcceleratorState.__init__


def begin(self: AcceleratorState, *arguments: Any, **options: Any) -> None:
    _begin(self, *arguments, **options)
    if options.get("fsdp_plugin") is not None:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = options["fsdp_plugin"]


if __name__ == "__main__":
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "Qwen3VLTextDecoderLayer",
    }
    AcceleratorState.__init__ = begin  # type: ignore[method-assign]
    if HELD in os.environ:
        hold()
    main()
