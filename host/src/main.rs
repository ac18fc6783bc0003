//! The binary: everything is in the library.

/// Every delivery allocates many small things on one thread that another one frees; the system's allocator took an
/// eighth of the host's time at it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    fanfare::cli::main()
}
