//! How the program is linked. Enters: the target. Leaves: arguments for the linker. Always holds: nothing
//! here changes what the program does.
//!
//! On Linux, Rust links with LLD, which can fold functions with equal code and pack the relocations of a
//! position-independent program: less to read at every start (DESIGN.md has the figures). Packed relocations
//! need glibc 2.36 where the program runs, so they are used only where it is built with that.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    if target != "x86_64-unknown-linux-gnu" {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    let native = std::env::var("HOST").is_ok_and(|host| host == target);
    if native && glibc_minor().is_some_and(|minor| minor >= 36) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The 36 of `glibc 2.36`.
fn glibc_minor() -> Option<u32> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().strip_prefix("glibc 2.")?.split('.').next()?.parse().ok()
}
