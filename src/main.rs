//! The program: arguments enter, an exit code leaves. Always holds: all work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fuse::cli::main()
}
