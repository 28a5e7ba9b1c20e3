//! `FROM read_csv('x.txt', delim => ';')`.
//!
//! Enters: a call in FROM. Leaves: a table whose name is the text of that call. Always holds: the name says all
//! that the call says, so whoever resolves it needs nothing else.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, TableFactor};

/// Functions that read files.
pub const FILE_FUNCTIONS: [&str; 9] = [
    "read_csv",
    "read_csv_auto",
    "read_parquet",
    "parquet_scan",
    "read_json",
    "read_json_auto",
    "read_ndjson",
    "read_ndjson_auto",
    "sniff_csv",
];

/// Makes the name of the table out of a call of one of [`FILE_FUNCTIONS`].
pub(super) fn name_call(factor: &mut TableFactor) {
    let TableFactor::Table { name, args, .. } = factor else { return };
    let function = name.to_string().to_ascii_lowercase();
    if !FILE_FUNCTIONS.contains(&function.as_str()) {
        return;
    }
    let Some(list) = args.take() else { return };
    let list = list.args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let span = name.0.first().and_then(|part| part.as_ident()).map(|name| name.span);
    let mut call = Ident::with_quote('"', format!("{function}({list})"));
    call.span = span.unwrap_or(call.span);
    *name = ObjectName::from(vec![call]);
}

#[cfg(test)]
mod tests {
    use super::super::{Reading, Script, parse};

    #[test]
    fn a_call_becomes_a_name() {
        let text = "from READ_CSV('a.csv', delim => ';', header := true, types = {'a': 'INT'}) t";
        let script = Script { name: "test".into(), text: text.into() };
        let body = parse(&script, &Reading::default()).expect("parses")[0].body.to_string();
        let name = "\"read_csv('a.csv', delim => ';', header := true, types = {'a': 'INT'})\"";
        assert_eq!(body, format!("SELECT * FROM {name} t"));
    }
}
