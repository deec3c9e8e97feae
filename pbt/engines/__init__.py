"""Who speaks: one small interface, several real engines."""
