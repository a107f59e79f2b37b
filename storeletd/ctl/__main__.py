"""`python -m storeletd.ctl`: the same as `storeletctl`."""

from __future__ import annotations

from storeletd.ctl.commands import main

if __name__ == "__main__":
    main()
