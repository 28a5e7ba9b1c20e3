//! The program: arguments enter, an exit code leaves. Always holds: all work is in the library.

use std::process::ExitCode;

/// Fewer and cheaper system calls for memory than the system's allocator: see DESIGN.md for what it gains.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fuse::cli::main()
}
