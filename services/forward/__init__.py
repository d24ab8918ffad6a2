"""The forward tier: one lane per target, which pulls, sends, tries again, gives up, and accounts for every attempt."""
