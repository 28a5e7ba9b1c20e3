//! CSV files as they are found.
//!
//! Enters: files of many kinds, and `FUSE_POLLOCK_DIR`, a folder with `csv` and `clean`, polluted files and what
//! each should have been. Leaves: nothing. Always holds: a file is read as what it means, or the error names the
//! line; what is not read as it is written is told.

use std::fmt::Write as _;
use std::path::Path;

use crate::support::Place;

/// Each file, with what `SELECT *` gives.
const FILES: [(&str, &str, &str); 17] = [
    ("semicolon.csv", "a;b;c\n1;x,y;2,5\n2;z;1.003,75\n", "a,b,c\n1,\"x,y\",2.5\n2,z,1003.75\n"),
    ("tabs.csv", "a\tb\n1\tx y\n2\tz, w\n", "a,b\n1,x y\n2,\"z, w\"\n"),
    ("pipes.csv", "a|b\n1|2024-01-31\n", "a,b\n1,2024-01-31\n"),
    ("title.csv", "Report, May\n\na,b,c,d,e\n1,2,3,4,5\n6,7,8,9,0\n", "a,b,c,d,e\n1,2,3,4,5\n6,7,8,9,0\n"),
    ("comments.csv", "# made by X\na,b\n1,2\n# half, done, now\n3,4\n", "a,b\n1,2\n3,4\n"),
    ("apostrophes.csv", "a,b\n'x, y','1'\n'it''s','2'\n", "a,b\n\"x, y\",1\nit's,2\n"),
    ("backslashes.csv", "a,b\n\"x \\\"y\\\", z\",1\n\"w\",2\n", "a,b\n\"x \"\"y\"\", z\",1\nw,2\n"),
    ("bare.csv", "1,x\n2,y\n", "column_1,column_2\n1,x\n2,y\n"),
    ("names.csv", "a,,a\n1,2,3\n", "a,column_2,a_1\n1,2,3\n"),
    ("ends.csv", "a,b\r1,x\r2,y\r", "a,b\n1,x\n2,y\n"),
    ("mark.csv", "\u{feff}a,b\r\n1,\"x\r\ny\"\r\n", "a,b\n1,\"x\r\ny\"\n"),
    ("trailing.csv", "a,b\n1,x,\n2,y,\n", "a,b\n1,x\n2,y\n"),
    (
        "dates.csv",
        "d,t\n28/01/2024,28/01/2024 12:30\n01/02/2024,01/02/2024 00:00\n",
        "d,t\n2024-01-28,2024-01-28T12:30:00\n2024-02-01,2024-02-01T00:00:00\n",
    ),
    ("unsure.csv", "d,n\n01/02/2024,\"1,234\"\n", "d,n\n01/02/2024,\"1,234\"\n"),
    ("groups.csv", "n,m\n\"1,234.5\",\"1,234,567\"\n7,8\n", "n,m\n1234.5,1234567\n7.0,8\n"),
    ("years.csv", "name,y2019,y2020\na,1,2\nb,3,4\n", "name,y2019,y2020\na,1,2\nb,3,4\n"),
    ("inch.csv", "a,b\n5\" pipe,1\n\"6\"\" pipe\",2\n", "a,b\n\"5\"\" pipe\",1\n\"6\"\" pipe\",2\n"),
];

#[test]
fn what_a_file_is_written_like_is_found() {
    let place = Place::new();
    for (name, text, rows) in FILES {
        place.write(name, text);
        assert_eq!(place.sql(&format!("FROM '{name}'")).data(), rows, "{name}");
    }
    let wide: Vec<u8> = "\u{feff}a;b\nZürich;1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    place.write("wide.csv", wide);
    assert_eq!(place.sql("FROM 'wide.csv'").data(), "a,b\nZürich,1\n");
    place.write("latin.csv", b"a,b\nZ\xfcrich,1\n");
    assert!(place.sql("FROM 'latin.csv'").error(1).contains("latin-1"));
    assert_eq!(place.sql("FROM read_csv('latin.csv', encoding => 'latin-1')").data(), "a,b\nZürich,1\n");
}

#[test]
fn what_is_found_can_be_asked_for_and_pasted() {
    let place = Place::new();
    place.write("x.txt", "made by X\n\nd;n\n28/01/2024;1,5\n02/02/2024;2,25\n");
    let rows = "d,n\n2024-01-28,1.5\n2024-02-02,2.25\n";
    assert_eq!(place.sql("FROM read_csv('x.txt')").data(), rows);
    let prompt = place.sql("SELECT prompt FROM sniff_csv('x.txt')").data();
    let prompt = prompt.trim_end().trim_start_matches("prompt\n").trim_matches('"').replace("\"\"", "\"");
    assert_eq!(place.sql(&prompt).data(), rows, "{prompt}");
    let found = "SELECT delimiter, skip_rows, has_header, dateformat, decimal_separator FROM sniff_csv('x.txt')";
    assert!(place.sql(found).data().ends_with(";,2,true,%d/%m/%Y,\",\"\n"));
    let described = place.sql("DESCRIBE read_csv('x.txt')");
    let described =
        if described.code == Some(0) { described } else { place.sql("DESCRIBE SELECT * FROM read_csv('x.txt')") };
    assert!(described.stdout.contains("d,"), "{described:?}");
}

#[test]
fn options_are_what_they_say() {
    let place = Place::new();
    place.write("a.csv", "id;v;d\n1;NA;01/02/2024\n2;7;03/04/2024\n");
    place.write("b.csv", "id;w\n3;x\n");
    place.write("ragged.csv", "a,b,c\n1,2\n3,4,5\n");
    for (call, rows) in [
        (
            "read_csv('a.csv', delim => ';', nullstr => 'NA', dateformat => '%d/%m/%Y')",
            "id,v,d\n1,,2024-02-01\n2,7,2024-04-03\n",
        ),
        (
            "read_csv('a.csv', delim = ';', nullstr := ['NA', 'n/a'], all_varchar = true)",
            "id,v,d\n1,,01/02/2024\n2,7,03/04/2024\n",
        ),
        (
            "read_csv('a.csv', header => false, skip => 1, columns => {'x': 'INT', 'y': 'VARCHAR', 'z': 'VARCHAR'})",
            "x,y,z\n1,NA,01/02/2024\n2,7,03/04/2024\n",
        ),
        (
            "read_csv('a.csv', names => ['x'], types => {'x': 'DOUBLE'}, nullstr => 'NA')",
            "x,v,d\n1.0,,01/02/2024\n2.0,7,03/04/2024\n",
        ),
        (
            "read_csv(['a.csv', 'b.csv'], union_by_name => true, nullstr => 'NA') ORDER BY id",
            "id,v,d,w\n1,,01/02/2024,\n2,7,03/04/2024,\n3,,,x\n",
        ),
        ("read_csv('ragged.csv', null_padding => true)", "a,b,c\n1,2,\n3,4,5\n"),
        ("read_csv('ragged.csv', ignore_errors => true)", "a,b,c\n3,4,5\n"),
        (
            "(SELECT id, filename FROM read_csv('*a.csv', filename => true, nullstr => 'NA'))",
            "id,filename\n1,a.csv\n2,a.csv\n",
        ),
    ] {
        assert_eq!(place.sql(&format!("FROM {call}")).data(), rows, "{call}");
    }
    for (call, code, says) in [
        ("read_csv('a.csv', delimm => ';')", 2, "did you mean delim?"),
        ("read_csv('a.csv', delim => ';;')", 2, "delim"),
        ("read_csv('a.csv', header => 'maybe')", 2, "true or false"),
        ("read_csv('a.csv', types => {'idd': 'INT'})", 2, "did you mean id?"),
        ("read_csv('a.csv', types => {'id': 'IMT'})", 2, "IMT"),
        ("read_csv('a.csv', columns => {'id': 'INT'})", 1, "3 columns"),
        ("read_csv('nope.csv')", 1, "nope.csv"),
        ("read_csv()", 2, "which file"),
        ("read_cvs('a.csv')", 2, "read_csv"),
    ] {
        let error = place.sql(&format!("FROM {call}")).error(code);
        assert!(error.contains(says), "{call}: {error}");
    }
    let create =
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'a.csv' OPTIONS ('nullstr' 'NA', 'delimiter' ';'); FROM t";
    assert!(place.sql(create).data().starts_with("id,v,d\n1,,"));
}

#[test]
fn rows_that_are_left_out_or_repaired_are_told() {
    let place = Place::new();
    let mut text = "t,n,code,note\n".to_owned();
    for row in 10..40 {
        let _ = match row {
            20 => writeln!(text, "{row}:15,,{},AB-{row},it is {row}", row % 7),
            21 => writeln!(text, "{row}:15,{}AB-{row},it is {row}", row % 7),
            22 => writeln!(text, "{row}:15,{},\"AB-{row},it is {row}", row % 7),
            23 => writeln!(text, "{row}:15,x,AB-{row},it is {row}"),
            24 => writeln!(text, "{row}"),
            _ => writeln!(text, "{row}:15,{},AB-{row},it is {row}", row % 7),
        };
    }
    place.write("x.csv", &text);
    let error = place.sql("SELECT t FROM 'x.csv'").error(1);
    assert!(error.contains("x.csv, line 16: 1 fields") && error.contains("ignore_errors"), "{error}");
    let kept = "read_csv('x.csv', types => {'n': 'INT'}, store_rejects => true)";
    let ran = place.sql(&format!(
        "CREATE TABLE x AS FROM {kept}; SELECT count(*), sum(n) FROM x; \
        SELECT line, \"column\", text, fate FROM rejects ORDER BY line"
    ));
    assert!(ran.stderr.contains("x.csv: 3 rows repaired, 2 rows left out"), "{}", ran.stderr);
    let sum: i32 = (10..40).filter(|row| !matches!(row, 23 | 24)).map(|row| row % 7).sum();
    let data = ran.data();
    assert!(data.contains(&format!("\n28,{sum}\n")), "{data}");
    let lines: Vec<&str> =
        data.lines().filter(|line| line.ends_with("repaired") || line.ends_with("left out")).collect();
    assert_eq!(lines.len(), 5, "{data}");
    assert!(lines[3].starts_with("15,n,x,"), "{data}");
    assert!(place.sql(&format!("SELECT count(*) FROM {kept}")).data().ends_with("\n28\n"));
    let strict = place.sql("SELECT t FROM read_csv('x.csv', repair => false)").error(1);
    assert!(strict.contains("line 12"), "{strict}");
}

#[test]
fn large_files_keep_their_line_numbers() {
    let place = Place::new();
    let mut text = "a,b\n".to_owned();
    for row in 0..60_000 {
        let _ = if row % 1000 == 7 { writeln!(text, "{row},\"two\nlines\"") } else { writeln!(text, "{row},x") };
    }
    place.write("good.csv", &text);
    assert!(place.sql("SELECT count(*), max(a), max(length(b)) FROM 'good.csv'").data().ends_with("\n60000,59999,9\n"));
    place.write("bad.csv", text.replace("\n50000,", "\noops,"));
    let error = place.sql("SELECT sum(a) FROM 'bad.csv'").error(1);
    assert!(error.contains("bad.csv, line 50052, column a: 'oops' is not of type BIGINT"), "{error}");
    place.write("open.csv", text.replace("\n50000,x", "\n50000,\"x"));
    let ran = place.sql("SELECT count(*), max(b) FROM 'open.csv'");
    assert!(ran.stderr.contains("1 row repaired"), "{}", ran.stderr);
    assert!(ran.data().contains("\n60000,x\n"));
}

/// Reads each polluted file, and compares its texts with what they should have been.
#[test]
fn polluted_files_are_read_as_their_clean_twins() {
    let Ok(folder) = std::env::var("FUSE_POLLOCK_DIR") else { return };
    let folder = Path::new(&folder);
    let place = Place::new();
    let mut names: Vec<String> = std::fs::read_dir(folder.join("csv"))
        .expect("the folder csv")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let read = |kind: &str, name: &str| {
        let path = folder.join(kind).join(name);
        place.sql(&format!("FROM read_csv('{}', all_varchar => true)", path.display()))
    };
    let typed = |name: &str| place.sql(&format!("FROM '{}'", folder.join("csv").join(name).display()));
    let (mut same, mut loaded, mut others) = (0, 0, Vec::new());
    for name in &names {
        let (dirty, clean) = (read("csv", name), read("clean", name));
        loaded += usize::from(typed(name).code == Some(0));
        if dirty.code == Some(0) && dirty.stdout == clean.stdout {
            same += 1;
        } else {
            others.push(format!("{name}: {}", dirty.stderr.lines().next().unwrap_or("other rows")));
        }
    }
    eprintln!("{} of {} as their clean twins, {} loaded with types", same, names.len(), loaded);
    others.iter().for_each(|other| eprintln!("  {other}"));
    assert!(same * 100 >= names.len() * 95, "{same} of {}", names.len());
}
