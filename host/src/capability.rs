//! Host side of each import of the contract: context, borrowed view, one `add_to_linker`.
