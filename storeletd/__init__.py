"""Storelet's daemon: runs backup jobs on a schedule and remembers how they ended."""
