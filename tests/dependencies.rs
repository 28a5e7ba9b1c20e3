//! What the program is made of.
//!
//! Enters: what cargo tells of the dependencies. Leaves: nothing. Always holds: each has a licence that goes with
//! Apache-2.0 and comes from crates.io, in the version that Cargo.lock fixes; what stands for all data is there once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that ask for no more than to be named.
const LICENCES: [&str; 16] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
    // Of files that are not changed.
    "MPL-2.0",
];

/// Two of one of these would not understand each other's data.
const ONCE: [&str; 8] =
    ["arrow", "arrow-array", "arrow-schema", "datafusion", "datafusion-common", "object_store", "parquet", "tokio"];

/// True if a licence can be chosen from an expression such as `(MIT OR Apache-2.0) AND Unicode-3.0`.
fn is_allowed(expression: &str) -> bool {
    let text = expression.replace('/', " OR ");
    // AND binds closer than OR.
    apart(&text, " OR ").iter().any(|one| {
        apart(one, " AND ").iter().all(|part| {
            let part = part.trim();
            match part.strip_prefix('(').and_then(|part| part.strip_suffix(')')) {
                Some(inner) => is_allowed(inner),
                None => LICENCES.contains(&part.split_whitespace().collect::<Vec<_>>().join(" ").as_str()),
            }
        })
    })
}

/// The parts of an expression between words that stand in no parentheses.
fn apart(text: &str, word: &str) -> Vec<String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && at >= start && text[at..].starts_with(word) => {
                parts.push(text[start..at].to_owned());
                start = at + word.len();
            }
            _ => {}
        }
    }
    parts.push(text[start..].to_owned());
    parts
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--offline", "--all-features", "--format-version", "1"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    told["packages"].as_array().expect("packages").clone()
}

#[test]
fn dependencies_are_what_they_may_be() {
    let (mut wrong, mut versions) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
    for package in packages() {
        let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let (name, licence, source) = (text("name"), text("license"), text("source"));
        if !is_allowed(&licence) {
            wrong.push(format!("{name}: the licence {licence:?}"));
        }
        if name != "fuse" && source != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{name}: from {source:?}"));
        }
        versions.entry(name).or_default().push(text("version"));
    }
    let twice = ONCE.iter().filter(|name| versions.get(**name).is_none_or(|versions| versions.len() != 1));
    wrong.extend(twice.map(|name| format!("{name}: the versions {:?}", versions.get(*name))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn expressions_of_licences_are_understood() {
    let allowed =
        ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "ISC AND (GPL-2.0 OR (MIT))"];
    let refused = ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "SSPL-1.0 OR GPL-3.0"];
    assert!(allowed.iter().all(|text| is_allowed(text)));
    assert!(!refused.iter().any(|text| is_allowed(text)));
}
