//! Names that carry a spelling from the tokens to the planner.
//!
//! Enters: nothing. Leaves: names that [`super::respell`] writes and the planner reads. Always holds: each has
//! a dot in it, so that no unquoted name of a user is one of them.

use datafusion::sql::sqlparser::ast::Ident;

/// A SELECT whose columns are those that PIVOT turns, and behind [`USING`] its aggregates.
pub const PIVOT: &str = "fuse.pivot";
/// See [`PIVOT`].
pub const USING: &str = "fuse.using";
/// In a PIVOT in FROM: a further `column IN (…)`.
pub const FOR: &str = "fuse.for";
/// In a PIVOT in FROM: its GROUP BY.
pub const GROUP: &str = "fuse.group";
/// A SELECT whose columns are those that UNPIVOT turns, and behind [`INTO`] the new names.
pub const UNPIVOT: &str = "fuse.unpivot";
/// See [`UNPIVOT`].
pub const INTO: &str = "fuse.into";
/// A SELECT that is SUMMARIZE of its FROM.
pub const SUMMARIZE: &str = "fuse.summarize";
/// A SELECT that is DESCRIBE of its FROM.
pub const DESCRIBE: &str = "fuse.describe";
/// The MATCH_CONDITION of an ASOF JOIN whose ON or USING has the condition.
pub const ASOF: &str = "fuse.asof";
/// The same for ASOF LEFT JOIN.
pub const ASOF_LEFT: &str = "fuse.asof_left";
/// The only column of INSERT … BY NAME.
pub const BY_NAME: &str = "fuse.by_name";
/// The schema of a macro in DROP FUNCTION, and of a variable in CREATE MACRO.
pub const MACRO: &str = "fuse.macro";
/// What `SET VARIABLE` defines.
pub const VARIABLE: &str = "fuse.variable";
/// The function `*COLUMNS(…)`: all columns as arguments of one call.
pub const UNPACK: &str = "fuse.columns";
/// The columns of PARTITION BY, as the last argument of SESSION.
pub const PARTITION: &str = "fuse.partition";
/// LIMIT of so many rows of a hundred.
pub const PERCENT: &str = "fuse.percent";

/// True if the name is one of these.
pub fn is_mark(ident: &Ident, name: &str) -> bool {
    ident.value == name
}
