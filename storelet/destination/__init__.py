"""Destinations: where archives are kept. `contract` says what each one promises."""
