//! The only code that knows wasmtime: loads plugins, runs them inside their limits.
