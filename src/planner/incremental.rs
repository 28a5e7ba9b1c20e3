//! The plan of a pipeline, as data.
//!
//! Enters: nodes, made by [`super::differentiate`]. Leaves: for `operator`, what to build; for people, EXPLAIN
//! INCREMENTAL. Always holds: a node stands behind its inputs; it never executes itself.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::{Aggregate, Expr, Join, LogicalPlan, SortExpr, Window};

use super::asof::AsOfJoin;
use super::event_time::Eviction;
use super::random::Chance;
use super::sessions::Sessions;
use super::temporal::TimeBound;
use super::upkeep;
use super::windows::{Rank, RankLimit, Reach, SoFar};
use crate::change::{OnMissing, hash};
use crate::checkpoint::{Explained, Work};
use crate::error::Result;
use crate::source::stream::StreamTable;

/// The place of a node in its plan.
pub type NodeId = usize;

/// What each epoch does.
#[derive(Debug, Default)]
pub struct IncrementalPlan {
    /// Nodes, inputs first.
    pub nodes: Vec<Node>,
    /// The growing tables, each read once for all that use it.
    pub sources: Vec<SourceNode>,
    /// What goes to sinks.
    pub outputs: Vec<Output>,
}

/// A growing table.
#[derive(Debug)]
pub struct SourceNode {
    /// Its name in the SQL.
    pub name: String,
    /// The table, a [`StreamTable`].
    pub table: Arc<dyn datafusion::catalog::TableProvider>,
    /// The columns that any query needs, in order.
    pub columns: Vec<usize>,
}

impl SourceNode {
    /// The table.
    pub fn stream(&self) -> Option<&StreamTable> {
        self.table.downcast_ref::<StreamTable>()
    }
}

/// The result of one statement.
#[derive(Debug)]
pub struct Output {
    /// Where its changes come from.
    pub node: NodeId,
    /// The order of its rows, where they are shown as a whole.
    pub sort: Vec<SortExpr>,
    /// Its columns, as the statement names them, and behind them those that only the order needs.
    pub columns: DFSchemaRef,
    /// How many these are.
    pub hidden: usize,
}

/// One operator.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Where its changes come from.
    pub inputs: Vec<NodeId>,
    /// Its columns.
    pub schema: SchemaRef,
    /// It never retracts.
    pub append_only: bool,
    /// What it forgets as watermarks rise.
    pub evict: Vec<Eviction>,
}

/// What an operator does.
#[derive(Debug)]
pub enum Op {
    /// The columns of a source, by their places in the table.
    Scan {
        /// Among [`IncrementalPlan::sources`].
        source: usize,
        /// The columns.
        columns: Vec<usize>,
    },
    /// The rows of a source that inserts, changes and deletes.
    Net {
        /// Among [`IncrementalPlan::sources`].
        source: usize,
        /// The places of the columns of its key; without one, rows are inserted and deleted as wholes.
        key: Vec<usize>,
        /// What becomes of a delete of a row that is not there.
        on_missing: OnMissing,
    },
    /// A table at rest: its rows come with the first epoch, and no more.
    Static {
        /// What gives the rows.
        plan: Box<LogicalPlan>,
    },
    /// Filters and projections, row by row.
    Stateless {
        /// One after the other.
        steps: Vec<Step>,
    },
    /// All inputs.
    Union,
    /// A plan of DataFusion's whose result over several batches is that over each of them, such as UNNEST.
    Linear {
        /// Its input is an [`super::placeholder::Placeholder`].
        plan: Box<LogicalPlan>,
    },
    /// Groups and their aggregates.
    Aggregate {
        /// As planned.
        aggregate: Box<Aggregate>,
    },
    /// A join; what has come on each side is kept, unless the other side is at rest.
    Join {
        /// As planned.
        join: Box<Join>,
        /// The left side is at rest.
        left_rests: bool,
        /// The right side is at rest.
        right_rests: bool,
    },
    /// All columns, and behind them values of random() and uuid().
    Random {
        /// What the columns at the end are.
        calls: Vec<Chance>,
        /// A number of this place in the plan.
        place: u64,
    },
    /// Rows for which conditions on the time hold.
    Temporal {
        /// All of them have to.
        bounds: Vec<TimeBound>,
    },
    /// ORDER BY with LIMIT; LIMIT alone where rows may be taken away.
    Top {
        /// The order; nothing: that of the columns.
        sort: Vec<SortExpr>,
        /// What it is over.
        input: DFSchemaRef,
        /// Rows before the first that is wanted.
        skip: usize,
        /// How many are wanted, if not all.
        fetch: Option<usize>,
    },
    /// LIMIT or OFFSET alone: the first rows that come, or all behind them.
    First {
        /// Rows before the first that is wanted.
        skip: usize,
        /// How many are wanted, if not all.
        fetch: Option<usize>,
    },
    /// Window functions: the partitions that a change touches are computed anew.
    Window {
        /// Its input is a [`super::placeholder::Placeholder`].
        plan: Box<LogicalPlan>,
        /// By what all functions partition.
        partition: Vec<Expr>,
        /// What it is over.
        input: DFSchemaRef,
    },
    /// Window functions that look at some rows before and behind a row: only those near a change are computed anew.
    Near {
        /// As planned.
        window: Box<Window>,
        /// How far they look.
        reach: Reach,
        /// Its input is a [`super::placeholder::Placeholder`] with the region and the place of each row.
        plan: Box<LogicalPlan>,
    },
    /// Window functions that look at no row behind a row: those from the first change on are computed anew.
    Running {
        /// As planned.
        window: Box<Window>,
        /// Its functions.
        runs: Vec<SoFar>,
    },
    /// The first rows of each partition.
    Ranking {
        /// As planned.
        window: Box<Window>,
        /// Its functions.
        ranks: Vec<Rank>,
        /// Which rows are wanted.
        limit: RankLimit,
    },
    /// SESSION windows.
    Sessions {
        /// As planned.
        sessions: Box<Sessions>,
    },
    /// ASOF JOIN.
    AsOf {
        /// As planned.
        asof: Box<AsOfJoin>,
    },
    /// EMIT FINAL: each row once, when it cannot change any more.
    Final {
        /// The column that tells.
        column: usize,
        /// What it is over.
        input: DFSchemaRef,
    },
    /// All input is kept, and the result computed anew.
    Recompute {
        /// Its inputs are [`super::placeholder::Placeholder`]s.
        plan: Box<LogicalPlan>,
        /// Why.
        reason: String,
    },
}

/// One step of [`Op::Stateless`].
#[derive(Debug, Clone)]
pub enum Step {
    /// Keeps the rows for which it is true.
    Filter {
        /// The condition.
        predicate: Expr,
        /// What it is over.
        input: DFSchemaRef,
    },
    /// Computes columns.
    Project {
        /// The columns.
        exprs: Vec<Expr>,
        /// What they are over.
        input: DFSchemaRef,
        /// Their names and types.
        schema: SchemaRef,
    },
}

/// How the work of an operator grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    /// With the change.
    Change,
    /// With all rows of the groups or partitions that are touched.
    Group,
    /// With all that has come.
    Full,
}

impl Node {
    /// How its work grows, and why not with the change alone.
    pub fn strategy(&self, plan: &IncrementalPlan) -> Result<(Strategy, String)> {
        match &self.op {
            Op::Recompute { reason, .. } => Ok((Strategy::Full, reason.clone())),
            Op::Window { partition, .. } if partition.is_empty() => {
                Ok((Strategy::Group, "window functions without PARTITION BY: all rows are one partition".to_owned()))
            }
            Op::Window { .. } => Ok((Strategy::Group, "window functions".to_owned())),
            Op::Sessions { .. } => Ok((Strategy::Group, "sessions".to_owned())),
            Op::Aggregate { aggregate } if !self.inputs.iter().all(|input| plan.nodes[*input].append_only) => {
                let names = upkeep::recomputed(aggregate)?;
                if names.is_empty() {
                    return Ok((Strategy::Change, String::new()));
                }
                Ok((Strategy::Group, format!("{} over rows that change", names.join(", "))))
            }
            _ => Ok((Strategy::Change, String::new())),
        }
    }
}

impl Op {
    /// Its name and what it works with, in one line.
    fn describe(&self, plan: &IncrementalPlan) -> String {
        match self {
            Op::Scan { source, .. } => format!("Scan {}", plan.sources[*source].name),
            Op::Net { source, key, .. } if key.is_empty() => {
                format!("Rows of {} that were inserted and not deleted", plan.sources[*source].name)
            }
            Op::Net { source, key, .. } => {
                let source = &plan.sources[*source];
                let schema = source.table.schema();
                let key: Vec<&str> = key.iter().map(|at| schema.field(source.columns[*at]).name().as_str()).collect();
                format!("Rows of {} that are there, by {}", source.name, key.join(", "))
            }
            Op::Static { plan } => format!("Table at rest: {}", plan.display()),
            Op::Stateless { steps } => steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Op::Union => "Union".to_owned(),
            Op::Linear { plan } => plan.display().to_string(),
            Op::Aggregate { aggregate } => {
                format!("Aggregate by [{}]: {}", list(&aggregate.group_expr), list(&aggregate.aggr_expr))
            }
            Op::Join { join, .. } => {
                let on = join.on.iter().map(|(left, right)| format!("{left} = {right}"));
                let on = on.chain(join.filter.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" AND ");
                format!("{} Join on {on}", join.join_type)
            }
            Op::Temporal { bounds } => {
                let bounds: Vec<String> = bounds.iter().map(ToString::to_string).collect();
                format!("Filter as time passes {}", bounds.join(" AND "))
            }
            Op::Random { calls, .. } => format!("Record {calls:?}"),
            Op::Top { sort, skip, fetch, .. } => {
                let by: Vec<String> = sort.iter().map(ToString::to_string).collect();
                format!("{} by [{}]", cut_out("Top", *fetch, *skip), by.join(", "))
            }
            Op::First { skip, fetch } => cut_out("First", *fetch, *skip),
            Op::Ranking { window, limit, .. } => format!("First {} by {}", limit.rows, list(&window.window_expr)),
            Op::Near { window, .. } => format!("Rows near by: {}", list(&window.window_expr)),
            Op::Running { window, .. } => format!("Rows so far: {}", list(&window.window_expr)),
            Op::Sessions { sessions } => sessions.to_string(),
            Op::AsOf { asof } => asof.to_string(),
            Op::Final { .. } => "Final rows".to_owned(),
            Op::Window { plan, .. } | Op::Recompute { plan, .. } => plan.display().to_string(),
        }
    }
}

fn list(exprs: &[Expr]) -> String {
    exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The text with intervals of a fixed time as SQL writes them.
fn plain_intervals(text: &str) -> String {
    const OPEN: &str = "IntervalMonthDayNano(\"IntervalMonthDayNano { months: 0, days: 0, nanoseconds: ";
    const CLOSE: &str = " }\")";
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(OPEN) {
        plain.push_str(before);
        match behind.split_once(CLOSE).and_then(|(nanos, behind)| Some((nanos.parse::<i64>().ok()?, behind))) {
            Some((nanos, behind)) => {
                let sign = if nanos < 0 { "-" } else { "" };
                let _ = write!(plain, "INTERVAL '{sign}{:?}'", Duration::from_nanos(nanos.unsigned_abs()));
                rest = behind;
            }
            None => {
                plain.push_str(OPEN);
                rest = behind;
            }
        }
    }
    plain + rest
}

/// What LIMIT and OFFSET leave.
fn cut_out(which: &str, fetch: Option<usize>, skip: usize) -> String {
    match (fetch, skip) {
        (Some(fetch), 0) => format!("{which} {fetch}"),
        (Some(fetch), skip) => format!("{which} {fetch} behind {skip}"),
        (None, skip) => format!("All behind {skip}"),
    }
}

/// `x AS y AS z` as `x AS z`.
fn with_last_name(expr: &Expr) -> Cow<'_, Expr> {
    match expr {
        Expr::Alias(last) if matches!(*last.expr, Expr::Alias(_)) => {
            Cow::Owned(last.expr.as_ref().clone().unalias_nested().data.alias(&last.name))
        }
        other => Cow::Borrowed(other),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Filter { predicate, .. } => write!(f, "Filter {predicate}"),
            Step::Project { exprs, .. } => {
                let exprs: Vec<String> = exprs.iter().map(|expr| with_last_name(expr).to_string()).collect();
                write!(f, "Project {}", exprs.join(", "))
            }
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Strategy::Change => "change",
            Strategy::Group => "group",
            Strategy::Full => "full",
        })
    }
}

impl IncrementalPlan {
    /// EXPLAIN INCREMENTAL: per operator its place in the tree, strategy, whether it never retracts, and the reason
    /// of a strategy that is not `change`. Of what it has cost only the key is given.
    pub fn explain(&self) -> Result<Vec<Explained>> {
        let (mut lines, keys) = (Vec::new(), self.keys());
        for output in &self.outputs {
            self.explain_node(output.node, 0, &keys, &mut lines)?;
        }
        Ok(lines)
    }

    fn explain_node(&self, at: NodeId, depth: usize, keys: &[String], lines: &mut Vec<Explained>) -> Result<()> {
        let node = &self.nodes[at];
        let forgets: Vec<String> = node.evict.iter().map(ToString::to_string).collect();
        let verb = if matches!(node.op, Op::Final { .. }) { "closed where" } else { "forgets" };
        let forgets = if forgets.is_empty() { String::new() } else { format!("; {verb} {}", forgets.join(", ")) };
        let text = format!("{}{}{forgets}", "  ".repeat(depth), node.op.describe(self));
        let (strategy, reason) = node.strategy(self)?;
        lines.push(Explained {
            operator: plain_intervals(&text),
            strategy: strategy.to_string(),
            output: if node.append_only { "append-only" } else { "retracts" }.to_owned(),
            reason,
            work: Work { key: keys[at].clone(), ..Work::default() },
        });
        // NOT IN reads its right side twice.
        let shown = if matches!(node.op, Op::Join { .. }) { 2 } else { node.inputs.len() };
        node.inputs.iter().take(shown).try_for_each(|input| self.explain_node(*input, depth + 1, keys, lines))
    }

    /// A hash of each node and all beneath it. Steps that became one node have the hash of the last of them, so that
    /// it is the same in a plan where another statement reads what is between them.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let below: Vec<&str> = node.inputs.iter().map(|input| keys[*input].as_str()).collect();
            let below = below.join(" ");
            let above = |below: String, text: String| format!("{:016x}", hash(format!("{text} {below}").as_bytes()));
            keys.push(match &node.op {
                Op::Stateless { steps } => steps.iter().fold(below, |below, step| above(below, step.to_string())),
                op => above(below, op.describe(self)),
            });
        }
        keys
    }

    /// True if an epoch needs a seed.
    pub fn has_chance(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.op, Op::Random { .. }))
    }

    /// What is computed anew from all that has come, and why.
    pub fn recomputed(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let (Strategy::Full, reason) = node.strategy(self)? {
                found.push((node.op.describe(self), reason));
            }
        }
        Ok(found)
    }

    /// True if something is forgotten, or shown, as watermarks rise.
    pub fn forgets(&self) -> bool {
        self.nodes.iter().any(|node| !node.evict.is_empty())
    }

    /// The nodes that keep rows between epochs. A part of the state is named by a node's place among them, which
    /// stays where the nodes around are planned otherwise.
    pub fn keepers(&self) -> Vec<NodeId> {
        let keeps = |op: &Op| {
            let passes = matches!(op, Op::Stateless { .. } | Op::Union | Op::Linear { .. } | Op::Random { .. });
            !passes && !matches!(op, Op::Scan { .. } | Op::Static { .. })
        };
        (0..self.nodes.len()).filter(|at| keeps(&self.nodes[*at].op)).collect()
    }

    /// What each of [`IncrementalPlan::keepers`] does, in a line.
    pub fn operators(&self) -> Vec<String> {
        self.keepers().into_iter().map(|at| self.nodes[at].op.describe(self)).collect()
    }

    /// The same with the columns that decide what it keeps.
    pub fn kept(&self) -> Vec<String> {
        let columns = |node: &Node| -> Vec<String> {
            // An aggregate keeps its groups; the others keep rows of their inputs.
            let inputs = if matches!(node.op, Op::Aggregate { .. }) { &[][..] } else { &node.inputs[..] };
            let nodes = std::iter::once(node).chain(inputs.iter().map(|input| &self.nodes[*input]));
            nodes.map(|node| node.schema.fields().iter().map(ToString::to_string).collect()).collect()
        };
        let nodes = self.keepers().into_iter().map(|at| &self.nodes[at]);
        nodes.map(|node| format!("{}\n{:?}", node.op.describe(self), columns(node))).collect()
    }

    /// What the pipeline computes, in text: a state that belongs to another one is not used.
    pub fn fingerprint(&self) -> Result<String> {
        let sources = self.sources.iter().filter_map(|source| Some((source, source.stream()?)));
        let mut text = String::new();
        for (source, table) in sources {
            let _ = writeln!(text, "{}: {} columns {:?}", source.name, table.describe(), source.columns);
        }
        for line in self.explain()? {
            let _ = writeln!(text, "{}", line.operator);
        }
        Ok(text)
    }
}
