//! The SQL dialect of fuse.
//!
//! Enters: nothing. Leaves: which spellings the tokenizer and the parser accept.
//! Always holds: whatever it accepts is either planned or refused by [`super::refuse`], never ignored.
//!
//! It is sqlparser's generic dialect, under which most of DataFusion's own test files pass, with what
//! DuckDB's adds (ORDER BY ALL, lambdas, 1_000) and without what DataFusion ignores
//! (PREWHERE, CONNECT BY, LIMIT BY, WITH FILL, FORMAT, SETTINGS). DESIGN.md has the measurement.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
};
use datafusion::sql::sqlparser::dialect::{Dialect, DuckDbDialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

/// The SQL dialect of fuse.
#[derive(Debug, Clone, Copy)]
pub struct FuseDialect {
    duckdb_types: bool,
    versions: bool,
}

impl FuseDialect {
    /// The dialect as it is.
    pub const PLAIN: Self = Self { duckdb_types: false, versions: false };

    /// The dialect of a statement. `duckdb_types`: it spells types as DuckDB does, `STRUCT(a INT, b TEXT)`. `versions`:
    /// it reads a table AS OF a version; in others, `at` and `before` may be names of tables.
    pub(super) fn of(duckdb_types: bool, versions: bool) -> Self {
        Self { duckdb_types, versions }
    }
}

macro_rules! accept {
    ($($feature:ident)*) => { $(fn $feature(&self) -> bool { true })* };
}

impl Dialect for FuseDialect {
    /// The parser asks for the type of some dialects by name: there we answer as the generic one.
    fn dialect(&self) -> TypeId {
        if self.duckdb_types { TypeId::of::<DuckDbDialect>() } else { TypeId::of::<GenericDialect>() }
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"' || ch == '`'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '#' || ch == '@'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch.is_ascii_digit() || ch == '@' || ch == '$' || ch == '#' || ch == '_'
    }

    fn supports_table_versioning(&self) -> bool {
        self.versions
    }

    // As in the generic dialect.
    accept! {
        allow_extract_custom
        allow_extract_single_quotes
        support_map_literal_syntax
        supports_array_typedef_with_brackets
        supports_asc_desc_in_column_definition
        supports_bitwise_shift_operators
        supports_comma_separated_set_assignments
        supports_comma_separated_trim
        supports_create_view_comment_syntax
        supports_dictionary_syntax
        supports_empty_projections
        supports_explain_with_utility_options
        supports_extract_comma_syntax
        supports_filter_during_aggregation
        supports_from_first_select
        supports_group_by_expr
        supports_group_by_with_modifier
        supports_interval_options
        supports_left_associative_joins_without_parens
        supports_limit_comma
        supports_match_recognize
        supports_named_fn_args_with_assignment_operator
        supports_nested_comments
        supports_parens_around_table_factor
        supports_parenthesized_set_variables
        supports_partition_by_after_order_by
        supports_pipe_operator
        supports_projection_trailing_commas
        supports_select_wildcard_except
        supports_select_wildcard_exclude
        supports_select_wildcard_ilike
        supports_select_wildcard_rename
        supports_select_wildcard_replace
        supports_start_transaction_modifier
        supports_string_escape_constant
        supports_struct_literal
        supports_try_convert
        supports_unicode_string_literal
        supports_values_as_table_factor
        supports_window_clause_named_window_reference
        supports_window_function_null_treatment_arg
    }

    // From DuckDB's.
    accept! {
        supports_lambda_functions
        supports_notnull_operator
        supports_numeric_literal_underscores
        supports_order_by_all
    }

    /// `a ** b` and `text GLOB 'a*'`; `||` comes behind arithmetic, as in Postgres and DuckDB.
    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::Mul if parser.peek_nth_token_ref(1).token == Token::Mul => {
                Some(Ok(self.prec_value(Precedence::MulDivModOp) + 1))
            }
            Token::Word(word) if is_glob(word) => Some(Ok(self.prec_value(Precedence::Like))),
            Token::StringConcat => Some(Ok(self.prec_value(Precedence::PlusMinus) - 1)),
            _ => None,
        }
    }

    fn parse_infix(&self, parser: &mut Parser<'_>, expr: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        if let Some(distinct) = distinct_from(parser) {
            // The parser would take all that follows, with its AND and OR, for the right side.
            let whole = |right| {
                let (left, right) = (Box::new(expr.clone()), Box::new(right));
                if distinct { Expr::IsDistinctFrom(left, right) } else { Expr::IsNotDistinctFrom(left, right) }
            };
            return Some(parser.parse_subexpr(precedence).map(whole));
        }
        let name = match &parser.peek_token_ref().token {
            Token::Mul if parser.peek_nth_token_ref(1).token == Token::Mul => {
                parser.advance_token();
                "power"
            }
            Token::Word(word) if is_glob(word) => "glob",
            _ => return None,
        };
        parser.advance_token();
        let call = |right| {
            call(name, [expr.clone(), right].map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).to_vec())
        };
        Some(parser.parse_subexpr(precedence).map(call))
    }
}

/// Takes `IS DISTINCT FROM` (true) or `IS NOT DISTINCT FROM` (false), if it comes next.
fn distinct_from(parser: &mut Parser<'_>) -> Option<bool> {
    if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
        return Some(true);
    }
    parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]).then_some(false)
}

fn is_glob(word: &Word) -> bool {
    word.quote_style.is_none() && word.value.eq_ignore_ascii_case("glob")
}

/// `name(args)`.
pub fn call(name: &str, args: Vec<FunctionArg>) -> Expr {
    let args = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
