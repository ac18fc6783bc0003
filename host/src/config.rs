//! Settings: command line, environment and file, checked once.
