//! The directory of consumers: what is loaded, in which state, and why.

pub mod status;
