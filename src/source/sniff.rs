//! How a CSV file is written.
//!
//! Enters: the start of a file, pieces of its middle and end, and what the user has said of it. Leaves: its
//! dialect and its columns. Always holds: what the user has said is not changed; a file that could be read in two
//! ways is read in the plainer one.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use super::file_format::Sample;
use super::infer_csv;
use crate::config::{SCHEMA_SAMPLE_BYTES, SCHEMA_SAMPLE_ROWS};
use crate::error::{Error, Result};
use crate::format::csv::{Dialect, Encoding, Records, Step, Transcoder, lines};

/// Delimiters that are tried, the likelier first.
const DELIMITERS: [u8; 7] = [b',', b';', b'\t', b'|', b'^', b'~', b' '];
/// What is tried with each dialect.
const TRIAL_BYTES: usize = 256 << 10;
const TRIAL_ROWS: usize = 1_000;
/// The size of each piece of the middle and the end.
const PIECE_BYTES: u64 = 128 << 10;

/// What was found in a file.
#[derive(Debug, Clone)]
pub(super) struct Sniffed {
    pub(super) dialect: Dialect,
    pub(super) schema: SchemaRef,
}

/// Looks at a file. `given`: the options that the user has set in `wanted`.
pub(super) async fn look(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    compression: FileCompressionType,
    wanted: Dialect,
    given: Arc<HashSet<String>>,
    name: String,
) -> Result<Sniffed> {
    let bytes = if wanted.sample_rows == Some(usize::MAX) { u64::MAX } else { SCHEMA_SAMPLE_BYTES as u64 };
    let sample = Sample::open(store, file, compression, bytes).await?;
    let mut pieces = Vec::new();
    let all = wanted.sample_rows == Some(usize::MAX);
    if !compression.is_compressed() && file.size > SCHEMA_SAMPLE_BYTES as u64 / 4 && !all {
        for start in [file.size / 2, file.size - PIECE_BYTES] {
            let range = GetRange::Bounded(start..start + PIECE_BYTES);
            let options = GetOptions { range: Some(range), ..Default::default() };
            pieces.push(store.get_opts(&file.location, options).await?.bytes().await?);
        }
    }
    let work = move || {
        let (bytes, whole) = start_of(sample, &wanted, &name)?;
        let (encoding, at) = match given.contains("encoding") {
            true => (wanted.encoding, 0),
            false => (Encoding::of_start(&bytes), 0),
        };
        let wanted = Dialect { encoding, ..wanted };
        let mut text = Vec::with_capacity(bytes.len());
        Transcoder::new(encoding).push(&bytes[at..], &mut text);
        let decode = |piece: &bytes::Bytes| {
            let mut text = Vec::with_capacity(piece.len());
            Transcoder::new(encoding).push(piece, &mut text);
            text
        };
        let pieces: Vec<Vec<u8>> = pieces.iter().map(decode).collect();
        sniff(&text, whole, &pieces, &wanted, &given, &name)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::query(format!("a worker crashed: {e}"))))
}

/// The bytes of the first rows, and whether they are all.
fn start_of(sample: Sample, wanted: &Dialect, name: &str) -> Result<(Vec<u8>, bool)> {
    let rows = wanted.sample_rows.unwrap_or(SCHEMA_SAMPLE_ROWS).saturating_add(wanted.skip + 1);
    let most = if wanted.sample_rows == Some(usize::MAX) { usize::MAX } else { SCHEMA_SAMPLE_BYTES };
    let (mut bytes, mut seen, mut text) = (Vec::new(), 0, sample.text);
    let mut piece = vec![0; 64 << 10];
    loop {
        // What was read belongs to records of any length.
        sample.unbroken.store(0, std::sync::atomic::Ordering::Relaxed);
        match text.read(&mut piece) {
            Ok(0) => return Ok((bytes, !sample.cut)),
            Ok(count) => {
                seen += lines(&piece[..count]);
                bytes.extend_from_slice(&piece[..count]);
            }
            Err(_) if sample.cut => return Ok((bytes, false)),
            Err(error) => return Err(Error::query(format!("cannot read {name}: {}", Error::from(error).message))),
        }
        if seen as usize > rows || bytes.len() >= most {
            return Ok((bytes, false));
        }
    }
}

/// Finds dialect and columns of a text. `whole`: it is all of the file.
pub(super) fn sniff(
    text: &[u8],
    whole: bool,
    pieces: &[Vec<u8>],
    wanted: &Dialect,
    given: &HashSet<String>,
    name: &str,
) -> Result<Sniffed> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut dialect = choose(text, whole, wanted, given);
    let body = &text[behind_lines(text, dialect.skip)..];
    let rows = wanted.sample_rows.unwrap_or(SCHEMA_SAMPLE_ROWS).saturating_add(1);
    let mut records = read(body, rows, &dialect, whole);
    if records.is_empty() {
        return Err(Error::query(format!("'{name}' is empty: it has no header and no rows")));
    }
    let mut width = records.width(0);
    if !given.contains("has_header") {
        dialect.header = has_header(&records, &dialect);
    }
    let first = usize::from(dialect.header);
    let trails = |at: usize| records.width(at) == width + 1 && records.fields(at).last() == Some(b"");
    let body_rows = first..records.len();
    if dialect.header && !body_rows.is_empty() && body_rows.clone().all(trails) && !given.contains("trailing_delimiter")
    {
        dialect.trailing = true;
    } else if !dialect.header || records.width(0) != common_width(&records, 0) {
        // Rows without names of their own tell how many columns there are.
        let common = common_width(&records, 0);
        width = if dialect.header && common < width {
            width
        } else if dialect.header {
            records.width(0)
        } else {
            common
        };
    }
    let names = match dialect.header {
        true => infer_csv::names(records.fields(0), width, name)?,
        false => infer_csv::names(std::iter::empty(), width, name)?,
    };
    let trailing = usize::from(dialect.trailing);
    add_pieces(&mut records, pieces, width + trailing, &dialect);
    let found = infer_csv::types(&records, first..records.len(), width + trailing, &dialect);
    dialect.dateformat = dialect.dateformat.or(found.dateformat);
    dialect.timestampformat = dialect.timestampformat.or(found.timestampformat);
    if let Some((decimal, thousands)) = found.number {
        (dialect.decimal, dialect.thousands) = (decimal, Some(thousands));
    }
    let types: Vec<DataType> = found.types.into_iter().take(width).collect();
    Ok(Sniffed { dialect, schema: infer_csv::schema(names, types) })
}

/// Records from the middle and the end of the file. A piece that begins within quotes would be misread, so only one
/// in which nearly all records are as wide as the others counts.
fn add_pieces(records: &mut Records, pieces: &[Vec<u8>], width: usize, dialect: &Dialect) {
    for piece in pieces {
        let start = behind_lines(piece, 1);
        let trial = read(&piece[start..], usize::MAX, dialect, false);
        let good = (0..trial.len()).filter(|at| trial.is_sound(*at) && trial.width(*at) == width).count();
        if good * 10 >= trial.len() * 9 {
            let mut at = start;
            while let Step::Read(next) = records.read(piece, at, dialect, false) {
                at = next;
            }
        }
    }
}

fn read(text: &[u8], rows: usize, dialect: &Dialect, whole: bool) -> Records {
    let (mut records, mut at) = (Records::default(), 0);
    while records.len() < rows
        && let Step::Read(next) = records.read(text, at, dialect, whole)
    {
        at = next;
    }
    if records.is_empty() {
        // One record, without an end.
        records.read(text, 0, dialect, true);
    }
    records
}

/// The place behind as many lines.
fn behind_lines(text: &[u8], count: usize) -> usize {
    let mut at = 0;
    for _ in 0..count {
        let Some(length) = memchr::memchr2(b'\n', b'\r', &text[at..]) else { return text.len() };
        let pair = text[at + length] == b'\r' && text.get(at + length + 1) == Some(&b'\n');
        at += length + 1 + usize::from(pair);
    }
    at
}

/// The width that most records have.
fn common_width(records: &Records, first: usize) -> usize {
    let mut counts = std::collections::BTreeMap::new();
    for at in first..records.len() {
        *counts.entry(records.width(at)).or_insert(0_usize) += 1;
    }
    counts.into_iter().max_by_key(|(width, count)| (*count, *width)).map_or(1, |(width, _)| width)
}

/// How well a dialect explains a text.
struct Trial {
    dialect: Dialect,
    score: f64,
}

/// The dialect that explains the text best.
fn choose(text: &[u8], whole: bool, wanted: &Dialect, given: &HashSet<String>) -> Dialect {
    let cut = text.len() > TRIAL_BYTES;
    let text = &text[..text.len().min(TRIAL_BYTES)];
    let delimiters = if given.contains("delimiter") { vec![wanted.delimiter] } else { DELIMITERS.to_vec() };
    let quotes = if given.contains("quote") { vec![wanted.quote] } else { quotes(text) };
    let backslash = memchr::memmem::find(text, b"\\\"").is_some() || memchr::memmem::find(text, b"\\'").is_some();
    let escapes = match given.contains("escape") || !backslash {
        true => vec![wanted.escape],
        false => vec![None, Some(b'\\')],
    };
    let mut best: Option<Trial> = None;
    for quote in &quotes {
        for escape in &escapes {
            for delimiter in &delimiters {
                let dialect = Dialect { delimiter: *delimiter, quote: *quote, escape: *escape, ..wanted.clone() };
                let trial = judge(text, whole && !cut, dialect, given);
                // Of equals the first, which is the plainer.
                if best.as_ref().is_none_or(|best| trial.score > best.score + 1e-9) {
                    best = Some(trial);
                }
            }
        }
    }
    best.map_or_else(|| wanted.clone(), |best| best.dialect)
}

/// Quotes that may stand around fields.
fn quotes(text: &[u8]) -> Vec<Option<u8>> {
    let begins = |quote: u8| {
        let pairs =
            text.windows(2).filter(|pair| pair[1] == quote && (DELIMITERS.contains(&pair[0]) || pair[0] == b'\n'));
        pairs.count() + usize::from(text.first() == Some(&quote))
    };
    let ends = |quote: u8| {
        text.windows(2)
            .filter(|pair| pair[0] == quote && (DELIMITERS[..6].contains(&pair[1]) || pair[1] == b'\n'))
            .count()
    };
    if begins(b'"') == 0 && begins(b'\'').min(ends(b'\'')) > 1 {
        vec![Some(b'"'), Some(b'\'')]
    } else {
        vec![Some(b'"')]
    }
}

fn judge(text: &[u8], whole: bool, mut dialect: Dialect, given: &HashSet<String>) -> Trial {
    let given_skip = given.contains("skip");
    let mut records = read(&text[behind_lines(text, dialect.skip)..], TRIAL_ROWS, &dialect, whole);
    let mut width = common_width(&records, 0);
    if !given.contains("comment") && width > 1 && marks_comments(&records, width) {
        dialect.comment = Some(b'#');
        records = read(&text[behind_lines(text, dialect.skip)..], TRIAL_ROWS, &dialect, whole);
        width = common_width(&records, 0);
    }
    let mut first = 0;
    if !given_skip && width > 1 {
        // Lines of a title, above the header, have few fields.
        let few = |at: usize| records.width(at) * 2 <= width || records.width(at) == 1;
        first = (0..records.len()).position(|at| !few(at)).unwrap_or(0);
        if first > 0 {
            dialect.skip = usize::try_from(lines(&text[..records.range(first).start])).unwrap_or(0);
        }
    }
    let rows = (records.len() - first).max(1);
    let regular = (first..records.len()).filter(|at| records.width(*at) == width).count();
    let unsound = (first..records.len()).filter(|at| !records.is_sound(*at)).count();
    let share = regular as f64 / rows as f64;
    let sound = 1.0 - unsound as f64 / rows as f64;
    let score = if width < 2 {
        // One column: better than rows of all widths, and good if it is one of numbers or times.
        let typed = infer_csv::types(&records, 1..records.len().min(100), 1, &dialect).typed;
        if typed > 0 { 0.9 } else { 0.3 * sound }
    } else if first > 0 && dialect.delimiter == b' ' {
        0.0
    } else {
        let columns = infer_csv::types(&records, first + 1..records.len().min(first + 100), width, &dialect);
        let typed = columns.typed as f64 / width as f64;
        let quoted = columns_of_names(&records, first);
        let doubt = if dialect.delimiter == b' ' { 0.7 } else { 1.0 };
        let title = if first > 0 { 0.8 } else { 1.0 };
        let wide = 1.0 - 0.5 / width as f64;
        share * share * sound * wide * doubt * title * (1.0 + 0.3 * typed) * quoted
    };
    Trial { dialect, score }
}

/// Less than one where a header's fields begin or end with what looks like another delimiter.
fn columns_of_names(records: &Records, first: usize) -> f64 {
    if first >= records.len() {
        return 1.0;
    }
    let odd =
        |field: &[u8]| matches!(field.first(), Some(b';' | b'|' | b'\t')) || matches!(field.last(), Some(b';' | b'|'));
    if records.fields(first).any(odd) { 0.8 } else { 1.0 }
}

/// True if the lines that begin with `#` are the odd ones.
fn marks_comments(records: &Records, width: usize) -> bool {
    let marked = |at: &usize| records.fields(*at).next().is_some_and(|field| field.starts_with(b"#"));
    let all: Vec<usize> = (0..records.len()).filter(marked).collect();
    !all.is_empty() && all.iter().all(|at| records.width(*at) != width)
}

/// True if the first record holds names: a column of numbers or dates begins with what is none, or all is text.
fn has_header(records: &Records, dialect: &Dialect) -> bool {
    let width = records.width(0);
    if records.len() < 2 || !records.is_sound(0) {
        return true;
    }
    let rest = infer_csv::types(records, 1..records.len().min(TRIAL_ROWS), width, dialect);
    let with_first = infer_csv::types(records, 0..records.len().min(TRIAL_ROWS), width, dialect);
    let typed = |kind: &DataType| !matches!(kind, DataType::Utf8 | DataType::Null);
    let telling: Vec<bool> = rest
        .types
        .iter()
        .zip(&with_first.types)
        .filter(|(kind, _)| typed(kind))
        .map(|(rest, all)| rest != all)
        .collect();
    telling.is_empty() || telling.iter().any(|changed| *changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Sniffed {
        sniff(text.as_bytes(), true, &[], &Dialect::default(), &HashSet::new(), "t.csv").expect("sniffs")
    }

    fn names(text: &str) -> String {
        let schema = found(text).schema;
        schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_delimiter_is_found() {
        for (delimiter, text) in [
            (b',', "a,b\n1,x;y\n2,z;w\n"),
            (b';', "a;b;c\n1,5;2,25;3\n4,5;6,75;7\n"),
            (b'\t', "a\tb c\n1\tx, y\n2\tz w\n"),
            (b'|', "a|b\n1|2024-01-01\n"),
            (b' ', "1 2 3\n4 5 6\n"),
            (b',', "a\nx y\nz\n"),
        ] {
            assert_eq!(found(text).dialect.delimiter, delimiter, "{text}");
        }
    }

    #[test]
    fn titles_comments_and_missing_headers_are_found() {
        assert_eq!(names("Report of May\nmade by X\n\na,b,c\n1,2,3\n4,5,6\n"), "a b c");
        assert_eq!(found("Report\n\na,b\n1,2\n3,4\n").dialect.skip, 2);
        assert_eq!(names("# made by X\na,b\n1,2\n# half\n3,4\n"), "a b");
        assert_eq!(names("1,x\n2,y\n"), "column_1 column_2");
        assert_eq!(names("a,,a\n1,2,3\n"), "a column_2 a_1");
        assert_eq!(names("'a','b'\n'1,5','x'\n'2,5','y'\n"), "a b");
        let trailing = found("a,b\n1,2,\n3,4,\n");
        assert!(trailing.dialect.trailing && trailing.schema.fields().len() == 2);
    }
}
