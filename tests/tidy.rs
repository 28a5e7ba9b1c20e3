//! The house rules, held by a test.
//!
//! Enters: the floors of `ARCHITECTURE.md`, every Rust file of the repository, and the Markdown files of its
//! root and of `docs`. Leaves: for each rule that is broken, every place at once, with file, line and what to
//! do. Always holds: comments and the contents of literals are blanked before code is looked at, so a word in
//! them breaks no rule. Where an item ends is told by indentation, as rustfmt leaves it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a function may have, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Lines that a file may have.
const FILE_LINES: usize = 600;
/// What the module doc of a file in src says, in any case.
const DOC_WORDS: [&str; 3] = ["enter", "leave", "always holds"];
/// What does not stay in code, and what to do about it.
const UNFINISHED: [(&str, &str); 5] = [
    ("todo!", "write it, or leave it out"),
    ("unimplemented!", "write it, or refuse it with an error"),
    ("dbg!", "remove it"),
    ("#[ignore", "run the test, or remove it"),
    ("unsafe", "find a safe way"),
];
/// Calls that read the time.
const CLOCKS: [(&str, &str); 4] = [
    ("SystemTime::now", "take the time as an argument"),
    ("Instant::now", "take the time as an argument"),
    ("Utc::now", "take the time as an argument"),
    ("Local::now", "take the time as an argument"),
];

// The rules, each held to the repository as it is.

#[test]
fn every_entry_of_src_has_its_floor() {
    let found = misplaced(&floors(), &entries_of_src());
    hold("every entry of src has one line in the floors of ARCHITECTURE.md", &found);
}

#[test]
fn files_import_from_lower_floors_only() {
    let floors = floors();
    let found = rust_files(&["src"]).iter().flat_map(|file| upward_imports(file, &floors)).collect::<Vec<_>>();
    hold("a file imports from lower floors, or from its own folder", &found);
}

#[test]
fn every_file_says_what_it_is() {
    let files = rust_files(&["src", "tests", "benches"]);
    hold("a file begins with its module doc", &files.iter().filter_map(undocumented).collect::<Vec<_>>());
}

#[test]
fn functions_and_files_stay_short() {
    let files = rust_files(&["src", "tests"]);
    hold("what grows past a limit is asking to be two", &files.iter().flat_map(too_long).collect::<Vec<_>>());
}

#[test]
fn every_file_is_compiled() {
    let files = rust_files(&["src", "tests"]);
    hold("every file is reached by mod", &dead_files(&files, &["src/lib.rs", "src/main.rs", "tests/main.rs"]));
}

#[test]
fn nothing_is_left_to_do() {
    let files = rust_files(&["src", "tests"]);
    let found = files.iter().flat_map(|file| occurrences(file, &file.code, &UNFINISHED)).collect::<Vec<_>>();
    hold("code is finished, safe and tested", &found);
}

#[test]
fn only_the_clock_reads_the_time() {
    let found = rust_files(&["src"]).iter().flat_map(clock_reads).collect::<Vec<_>>();
    hold("time is read in src/cli/ and src/clock.rs only", &found);
}

#[test]
fn links_of_documents_lead_somewhere() {
    let here = entries(&root()).into_iter().filter(|path| path.is_file());
    let documents = here.chain(files_below(&root().join("docs"))).filter(|path| ends_in(path, "md"));
    let broken = |path: PathBuf| {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        broken_links(&relative(&path), &read(&path), |target| folder.join(target).exists())
    };
    hold("links lead to files of the repository", &documents.flat_map(broken).collect::<Vec<_>>());
}

/// Fails with all places where a rule is broken.
fn hold(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}; places to mend: {}\n  {}\n", found.len(), found.join("\n  "));
}

// Files.

/// A Rust file: its path from the root of the repository, its text, and its text with comments and literals
/// blanked. Both texts have the same bytes in the same lines.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: code_of(text) }
    }

    /// File and line of a byte.
    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, line_of(&self.text, at))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|known| known == ending)
}

fn rust_files(folders: &[&str]) -> Vec<Source> {
    let paths = folders.iter().flat_map(|folder| files_below(&root().join(folder)));
    paths.filter(|path| ends_in(path, "rs")).map(|path| Source::new(&relative(&path), &read(&path))).collect()
}

/// What is in a folder, hidden files aside; nothing if it is not there.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(folder) else { return Vec::new() };
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).filter(|path| !hidden(path)).collect();
    paths.sort();
    paths
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| files_below(folder)));
    files
}

// Floors.

/// A line of the floors: `name floor purpose`.
struct Entry {
    name: String,
    floor: u32,
    line: usize,
}

fn floors() -> Vec<Entry> {
    let floors = parse_floors(&read(&root().join("ARCHITECTURE.md")));
    floors.unwrap_or_else(|error| panic!("ARCHITECTURE.md:{error}"))
}

/// The lines of the block that begins with ```` ```floors ````.
fn parse_floors(document: &str) -> Result<Vec<Entry>, String> {
    let mut lines = document.lines().enumerate();
    if !lines.any(|(_, line)| line.trim_end() == "```floors") {
        return Err("1: no block begins with ```floors: add it".to_owned());
    }
    let entry = |(at, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next().and_then(|word| word.parse().ok()), words.next()) {
            (Some(name), Some(floor), Some(_)) => Ok(Entry { name: name.to_owned(), floor, line: at + 1 }),
            _ => Err(format!("{}: cannot be read: write `name floor purpose`", at + 1)),
        }
    };
    lines.take_while(|(_, line)| !line.starts_with("```")).map(entry).collect()
}

/// The entries of src as the floors name them: `catalog.rs`, `cli/`; `durable.rs` stands for `durable/` too.
fn entries_of_src() -> Vec<String> {
    let has_file = |path: &PathBuf| path.is_dir() && path.with_extension("rs").is_file();
    let name = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() { format!("{name}/") } else { name.into_owned() }
    };
    entries(&root().join("src")).iter().filter(|path| !has_file(path)).map(name).collect()
}

/// Where the floors and the entries of src do not agree.
fn misplaced(floors: &[Entry], present: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for Entry { name, line, .. } in floors {
        if !present.contains(name) {
            found.push(format!("ARCHITECTURE.md:{line}: src has no {name}: remove the line, or correct the name"));
        }
        if !seen.insert(name) {
            found.push(format!("ARCHITECTURE.md:{line}: {name} is listed already: remove one of the lines"));
        }
    }
    let unlisted = present.iter().filter(|name| !seen.contains(name));
    found.extend(unlisted.map(|name| format!("src/{name}:1: has no floor: add it to the floors of ARCHITECTURE.md")));
    found
}

/// The module that a path below src belongs to: `cli/args.rs` and `cli/` to `cli`, `catalog.rs` to `catalog`.
fn module(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The imports of a file that its floor does not allow. Items under `#[cfg(test)]` may import anything.
fn upward_imports(file: &Source, floors: &[Entry]) -> Vec<String> {
    let path = file.path.strip_prefix("src/").unwrap_or(&file.path);
    let own = module(path);
    let floor_of = |name: &str| floors.iter().find(|entry| module(&entry.name) == name).map(|entry| entry.floor);
    let Some(floor) = floor_of(own) else { return Vec::new() };
    let mut found = Vec::new();
    for (at, name) in imports(&without_tests(&file.code), depth(path)) {
        let place = file.place(at);
        match floor_of(&name) {
            _ if name == own => {}
            Some(lower) if lower < floor => {}
            Some(other) => found.push(format!(
                "{place}: {own} (floor {floor}) imports {name} (floor {other}): move what both need to a lower floor"
            )),
            None => found.push(format!("{place}: '{name}' is no entry of src: name the module that it comes from")),
        }
    }
    found
}

/// How many `super::` lead from a file to the root of the crate.
fn depth(path: &str) -> usize {
    let root = matches!(path, "lib.rs" | "main.rs") || path.ends_with("/mod.rs");
    path.split('/').count() - usize::from(root)
}

/// The entries of src that code names, by `crate::`, by `super::` at `depth`, or by the name of the library.
fn imports(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let Some(mut path) = code[at + word.len()..].strip_prefix("::") else { continue };
        if word == "super" {
            let mut levels = 1;
            while let Some(above) = path.strip_prefix("super::") {
                (path, levels) = (above, levels + 1);
            }
            if levels < depth || code[..at].ends_with("super::") {
                continue;
            }
        } else if !matches!(word, "crate" | "fuse") {
            continue;
        }
        found.extend(first_names(code, code.len() - path.len()));
    }
    found
}

/// The first name of the path at a byte, or the first name of each path in the group there.
fn first_names(code: &str, start: usize) -> Vec<(usize, String)> {
    let name_at = |at: usize| {
        let text = code[at..].trim_start();
        let name = text.split(|c| !is_word(c) && c != '*').next().unwrap_or_default();
        (code.len() - text.len(), name.to_owned())
    };
    if !code[start..].starts_with('{') {
        return vec![name_at(start)];
    }
    let mut names = Vec::new();
    let mut open = 0;
    for (at, c) in code[start..].char_indices() {
        open += i32::from(c == '{') - i32::from(c == '}');
        match c {
            '}' if open == 0 => break,
            '{' | ',' if open == 1 => names.push(name_at(start + at + 1)),
            _ => {}
        }
    }
    names.retain(|(_, name)| !name.is_empty());
    names
}

// Documents, sizes, dead files, words.

fn undocumented(file: &Source) -> Option<String> {
    let doc: Vec<&str> = file.text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    if doc.is_empty() {
        return Some(format!("{}:1: does not begin with //!: say what the file is", file.path));
    }
    let doc = doc.join(" ").to_lowercase();
    let missing: Vec<&str> = DOC_WORDS.into_iter().filter(|word| !doc.contains(word)).collect();
    if missing.is_empty() || !file.path.starts_with("src/") {
        return None;
    }
    Some(format!("{}:1: its //! lacks '{}': say what enters, leaves and always holds", file.path, missing.join("', '")))
}

fn too_long(file: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if lines > FILE_LINES {
        found.push(format!("{}:1: {lines} lines, the limit is {FILE_LINES}: make it two files", file.path));
    }
    for (name, start, lines) in functions(&file.code) {
        if lines > FUNCTION_LINES {
            let place = file.place(start);
            found.push(format!("{place}: fn {name} has {lines} lines, the limit is {FUNCTION_LINES}: make it two"));
        }
    }
    found
}

/// Name, first byte and number of lines of each function.
fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let named = |(at, word): (usize, &str)| {
        let rest = code[at..].strip_prefix("fn ").filter(|_| word == "fn")?;
        let name = rest.split(|c| !is_word(c)).next()?;
        let lines = line_of(code, end_of_item(code, at)) + 1 - line_of(code, at);
        (!name.is_empty()).then_some((name, at, lines))
    };
    words(code).filter_map(named).collect()
}

/// The end of the item in whose first line a byte is: of the first line as far in that ends in `}` or `;`.
fn end_of_item(code: &str, at: usize) -> usize {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let start = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let mut end = start;
    for line in code[start..].split_inclusive('\n') {
        end += line.len();
        if indent(line) == indent(&code[start..]) && line.trim_end().ends_with(['}', ';']) {
            break;
        }
    }
    start + code[start..end].trim_end().len()
}

/// The files that no root reaches.
fn dead_files(files: &[Source], roots: &[&str]) -> Vec<String> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = roots.iter().map(|root| (*root).to_owned()).collect();
    while let Some(path) = next.pop() {
        if let Some(file) = files.iter().find(|file| file.path == path)
            && reached.insert(path)
        {
            next.extend(modules(file));
        }
    }
    let dead = files.iter().filter(|file| !reached.contains(&file.path));
    dead.map(|file| format!("{}:1: no mod leads here: declare it, or remove the file", file.path)).collect()
}

/// The files that the `mod name;` of a file may mean.
fn modules(file: &Source) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let is_root = matches!(name, "lib.rs" | "main.rs" | "mod.rs");
    let below = if is_root { folder } else { file.path.trim_end_matches(".rs") };
    let mut found = Vec::new();
    for (at, _) in words(&file.code).filter(|(_, word)| *word == "mod") {
        let Some((name, _)) = file.code[at + 3..].split_once(';') else { continue };
        let name = name.trim();
        if !name.chars().all(is_word) {
            continue;
        }
        // The attributes of an item begin behind the item before it.
        let before = file.code[..at].rfind([';', '}']).map_or(0, |end| end + 1);
        match file.text[before..at].split_once("#[path = \"").and_then(|(_, path)| path.split_once('"')) {
            Some((path, _)) => found.push(format!("{folder}/{path}")),
            None => found.extend([format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")]),
        }
    }
    found
}

fn clock_reads(file: &Source) -> Vec<String> {
    if file.path.starts_with("src/cli/") || file.path == "src/clock.rs" {
        return Vec::new();
    }
    occurrences(file, &without_tests(&file.code), &CLOCKS)
}

/// Where the given words stand in code, alone or as the end of a path, and what to do about each.
fn occurrences(file: &Source, code: &str, wanted: &[(&str, &str)]) -> Vec<String> {
    let find = |(word, instead): &(&str, &str)| {
        let starts = |at: usize| !word.starts_with(is_word) || !code[..at].ends_with(is_word);
        let ends = |at: usize| !word.ends_with(is_word) || !code[at..].starts_with(is_word);
        let places = code.match_indices(word).map(|(at, _)| at).filter(|at| starts(*at) && ends(at + word.len()));
        places.map(|at| format!("{}: {word}: {instead}", file.place(at))).collect::<Vec<_>>()
    };
    wanted.iter().flat_map(find).collect()
}

// Links.

/// The relative links of a document whose file is not there.
fn broken_links(path: &str, document: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let targets = if fenced { Vec::new() } else { targets(line) };
        let broken = targets.iter().filter(|target| !exists(target));
        found.extend(broken.map(|to| format!("{path}:{}: no file {to}: correct the link, or remove it", at + 1)));
    }
    found
}

/// The files that a line links to: `[text](file#place "title")`, `[name]: file`.
fn targets(line: &str) -> Vec<String> {
    // What stands between backticks is code.
    let line: String = line.split('`').step_by(2).collect();
    let defines = line.starts_with('[') && !line.starts_with("[^");
    let definition = line.split_once("]: ").filter(|_| defines).map(|(_, target)| target);
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let file = |target: &str| target.split([' ', '#']).next().unwrap_or_default().replace("%20", " ");
    let local = |file: &String| !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:");
    inline.chain(definition).map(file).filter(local).collect()
}

// The scanner.

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The words of code, each with its first byte.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        at = code[start..].find(|c| !is_word(c)).map_or(code.len(), |length| start + length);
        Some((start, &code[start..at]))
    })
}

/// The text with blanks for comments and literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    while let Some(c) = text[code.len()..].chars().next() {
        let rest = &text[code.len()..];
        match length_of_literal(rest, code.ends_with(is_word)) {
            0 => code.push(c),
            length => code.push_str(&blank(&rest[..length])),
        }
    }
    code
}

/// The code with blanks for what is under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]\n";
    let mut kept = String::with_capacity(code.len());
    while let Some(found) = code[kept.len()..].find(ATTRIBUTE) {
        let start = kept.len() + found;
        let end = end_of_item(code, start + ATTRIBUTE.len());
        kept.push_str(&code[kept.len()..start]);
        kept.push_str(&blank(&code[start..end]));
    }
    kept.push_str(&code[kept.len()..]);
    kept
}

/// As many bytes and lines of nothing.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// The bytes of the comment or literal that a text starts with: 0 if it starts with none.
fn length_of_literal(text: &str, behind_word: bool) -> usize {
    let until = |start: usize, close: &str| text[start..].find(close).map_or(text.len(), |at| start + at + close.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    if text.starts_with('"') || text.starts_with("'\\") {
        return length_of_quoted(text);
    }
    if text.starts_with('\'') {
        // A lifetime has no second quote.
        let end = 1 + text.chars().nth(1).map_or(0, char::len_utf8);
        return if text[end..].starts_with('\'') { end + 1 } else { 0 };
    }
    let raw = text.trim_start_matches(['b', 'c']).strip_prefix('r').filter(|_| !behind_word);
    let Some((hashes, _)) = raw.and_then(|raw| raw.split_once('"')) else { return 0 };
    let start = text.find('"').map_or(0, |quote| quote + 1);
    if hashes.bytes().all(|byte| byte == b'#') { until(start, &format!("\"{hashes}")) } else { 0 }
}

/// Up to the next quote like the first that no backslash escapes.
fn length_of_quoted(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != bytes[0] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    bytes.len().min(at + 1)
}

// The scanner finds what it should, and nothing else.

const FLOORS: &str = "x\n```floors\nerror.rs 0 one error\nsource/ 2 tables\nsession.rs 5 the door\n```\n";

fn source(path: &str, text: &str) -> Source {
    Source::new(path, text)
}

#[test]
fn floors_and_entries_that_differ_are_found() {
    let floors = parse_floors(FLOORS).unwrap_or_default();
    let read: Vec<_> = floors.iter().map(|entry| (entry.name.as_str(), entry.floor, entry.line)).collect();
    assert_eq!(read, [("error.rs", 0, 3), ("source/", 2, 4), ("session.rs", 5, 5)]);
    let present = ["error.rs", "session.rs", "sink/"].map(str::to_owned);
    let found = misplaced(&floors, &present).join("\n");
    assert!(found.starts_with("ARCHITECTURE.md:4: src has no source/"), "{found}");
    assert!(found.contains("\nsrc/sink/:1: has no floor"), "{found}");
    assert_eq!(parse_floors("```floors\nerror.rs zero x\n```").err().map(|e| e[..2].to_owned()).as_deref(), Some("2:"));
}

#[test]
fn an_import_from_above_is_found() {
    let floors = parse_floors(FLOORS).unwrap_or_default();
    let lines = |path: &str, text: &str| -> Vec<String> {
        let place = |found: String| found.split(": ").next().unwrap_or_default().to_owned();
        upward_imports(&source(path, text), &floors).into_iter().map(place).collect()
    };
    let group = "use crate::{\n    error::{Error, session},\n    session::Session,\n};\n";
    assert_eq!(lines("src/source/table.rs", group), ["src/source/table.rs:3"]);
    assert_eq!(lines("src/source/mod.rs", "fn f() { super::session::x(crate::Error) }"), ["src/source/mod.rs:1"; 2]);
    assert!(lines("src/source/a/b.rs", "use super::super::session;\nuse crate::source::c;").is_empty());
    assert!(lines("src/source/a.rs", "/// [`crate::session`]\nconst A: &str = \"crate::session\";").is_empty());
    assert!(lines("src/error.rs", "#[cfg(test)]\nmod tests {\n    use crate::session;\n}\n").is_empty());
    assert!(lines("src/session.rs", "pub(crate) use crate::{error, source as tables};").is_empty());
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r##"a/*"*/ "\" //" r#"'"'"# b'"' '\'' 'x' 'é' <'a> br"\" r#fn // todo!"##;
    let code = code_of(text);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "<'a>", "r#fn"]);
    assert_eq!(code.len(), text.len());
}

#[test]
fn long_functions_and_files_are_found() {
    let body = "        x;\n".repeat(FUNCTION_LINES);
    let long = format!("impl A {{\n    fn short() {{}}\n    async fn long(\n    ) -> B {{\n{body}    }}\n}}\n");
    let found = too_long(&source("src/a.rs", &long)).join("\n");
    assert!(found.starts_with("src/a.rs:3: fn long has 73 lines"), "{found}");
    assert_eq!(too_long(&source("tests/a.rs", &"x;\n".repeat(FILE_LINES + 1))).len(), 1);
}

#[test]
fn dead_and_silent_files_are_found() {
    let root = "mod a;\n#[path = \"far/c.rs\"]\nmod c;\nmod inner {}\n// mod d;\n";
    let texts = [("src/lib.rs", root), ("src/a.rs", "pub mod b;"), ("src/a/b/mod.rs", ""), ("src/far/c.rs", "")];
    let mut files: Vec<Source> = texts.iter().map(|(path, text)| source(path, text)).collect();
    assert!(dead_files(&files, &["src/lib.rs"]).is_empty());
    files.push(source("src/d.rs", "//! Enters: a.\n//! Leaves: b. Always\n//! holds: c."));
    assert_eq!(dead_files(&files, &["src/lib.rs"]).len(), 1);
    assert_eq!(files.iter().filter_map(undocumented).count(), 4);
}

#[test]
fn words_and_clocks_are_found() {
    let text =
        "fn f() {\n    todo!();\n    my_todo!();\n    let t = std::time::Instant::now();\n}\n#[ignore = \"slow\"]\n";
    let file = source("src/a.rs", text);
    let found = occurrences(&file, &file.code, &UNFINISHED);
    assert!(
        matches!(&found[..], [a, b] if a.starts_with("src/a.rs:2: ") && b.starts_with("src/a.rs:6: ")),
        "{found:?}"
    );
    assert_eq!(clock_reads(&file), ["src/a.rs:4: Instant::now: take the time as an argument"]);
    assert!(clock_reads(&source("src/cli/a.rs", text)).is_empty());
}

#[test]
fn broken_links_are_found() {
    let text =
        "[a](here.md#x) [b](gone.md \"b\") `[c](no)`\n```\n[d](no)\n```\n[e]: gone.txt\n[f](https://x.org) [g](#h)";
    let found = broken_links("A.md", text, |target| target == "here.md");
    assert!(matches!(&found[..], [a, b] if a.starts_with("A.md:1: ") && b.starts_with("A.md:5: ")), "{found:?}");
}
