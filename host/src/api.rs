//! The HTTP interface: the only code that knows HTTP statuses.
