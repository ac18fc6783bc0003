//! From a leased delivery to its settlement.
