//! Logical plans → an incremental plan.
//!
//! Enters: the optimised plan of each statement of a pipeline. Leaves: one [`IncrementalPlan`] for all of them.
//! Always holds: it is composed operator by operator, from the bottom up; equal subtrees become one node; what has
//! no incremental operator is recomputed, and says so.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{
    Expr, Extension, FetchType, Filter, Join, Limit, LogicalPlan, Projection, SkipType, Sort, SortExpr, TableScan,
    Window,
};

use super::asof::AsOfJoin;
use super::emit::EmitFinal;
use super::incremental::{IncrementalPlan, Node, NodeId, Op, Output, SourceNode, Step};
use super::maintained::Maintained;
use super::ordered::{self, Ordered, with_limits_at_sorts};
use super::placeholder::Placeholder;
use super::sessions::Sessions;
use super::windows::{self, Looks, Rank, RankLimit};
use super::{event_time, grouping, random, temporal};
use crate::change::{OP, hash, nullable};
use crate::error::{Error, Result};
use crate::source::stream::{StreamTable, Upkeep};

/// True if a plan reads a growing table.
pub fn is_continuous(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::TableScan(scan) if is_stream(scan));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_stream(scan: &TableScan) -> bool {
    source_as_provider(&scan.source).is_ok_and(|table| {
        table.downcast_ref::<StreamTable>().is_some() || table.downcast_ref::<Maintained>().is_some()
    })
}

/// The views over growing tables that a plan reads, and those that these read, by their names.
pub fn maintained_views(plan: &LogicalPlan) -> Result<Vec<String>> {
    let (mut names, mut below) = (Vec::new(), Vec::new());
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(table) = source_as_provider(&scan.source)
            && let Some(view) = table.downcast_ref::<Maintained>()
        {
            names.push(scan.table_name.table().to_owned());
            below.push(view.plan().clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    for plan in &below {
        names.extend(maintained_views(plan)?);
    }
    Ok(names)
}

/// Makes one plan of the optimised plans of several statements, each with whether its rows are shown as a whole.
pub fn differentiate(plans: &[(LogicalPlan, bool)]) -> Result<IncrementalPlan> {
    let mut builder = Builder::default();
    let ordered = plans.iter().map(|(plan, whole)| ordered::ordered(&with_limits_at_sorts(plan.clone())?, *whole));
    let ordered = ordered.collect::<Result<Vec<Ordered>>>()?;
    for Ordered { plan, .. } in &ordered {
        needed(plan, &mut builder.needed)?;
    }
    for Ordered { plan, sort, hidden } in ordered {
        let node = builder.node(&plan)?;
        builder.plan.outputs.push(Output { node, sort, hidden, columns: Arc::clone(plan.schema()) });
    }
    let mut plan = builder.plan;
    fuse_stateless(&mut plan);
    prune_sources(&mut plan);
    event_time::plan_evictions(&mut plan)?;
    Ok(plan)
}

/// A plan that grows, inputs first.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) plan: IncrementalPlan,
    known: HashMap<LogicalPlan, NodeId>,
    /// Of growing tables, the columns that any scan of them reads.
    needed: Needed,
    /// The nodes of what is there of sources whose rows change and go, by source, and their columns.
    net: HashMap<usize, (NodeId, Vec<usize>)>,
}

/// Tables, each with the columns of it that are read.
type Needed = Vec<(Arc<dyn TableProvider>, BTreeSet<usize>)>;

/// Adds the columns of growing tables that a plan reads, and the views that it reads.
fn needed(plan: &LogicalPlan, all: &mut Needed) -> Result<()> {
    let mut views = Vec::new();
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(TreeNodeRecursion::Continue) };
        let Ok(table) = source_as_provider(&scan.source) else { return Ok(TreeNodeRecursion::Continue) };
        if let Some(view) = table.downcast_ref::<Maintained>() {
            views.push(view.plan().clone());
        } else if table.downcast_ref::<StreamTable>().is_some() {
            let columns = projected(scan, &table);
            match all.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &table)) {
                Some((_, known)) => known.extend(columns),
                None => all.push((table, columns.into_iter().collect())),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    views.iter().try_for_each(|view| needed(view, all))
}

/// The columns that a scan reads.
fn projected(scan: &TableScan, table: &Arc<dyn TableProvider>) -> Vec<usize> {
    scan.projection.clone().unwrap_or_else(|| (0..table.schema().fields().len()).collect())
}

/// The columns of a node. Within an epoch an outer join may give a row without a partner, and take it back: so there
/// may be NULL for a while where there is none in the end.
fn arrow_schema(schema: &DFSchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| Field::clone(field).with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.as_arrow().metadata().clone()))
}

impl Builder {
    pub(super) fn push(&mut self, op: Op, inputs: Vec<NodeId>, schema: SchemaRef, append_only: bool) -> NodeId {
        self.plan.nodes.push(Node { op, inputs, schema, append_only, evict: Vec::new() });
        self.plan.nodes.len() - 1
    }

    /// The node of a plan; of equal plans there is one.
    pub(super) fn node(&mut self, plan: &LogicalPlan) -> Result<NodeId> {
        if let Some(known) = self.known.get(plan) {
            return Ok(*known);
        }
        let node = self.build(plan)?;
        self.known.insert(plan.clone(), node);
        Ok(node)
    }

    fn build(&mut self, plan: &LogicalPlan) -> Result<NodeId> {
        let schema = arrow_schema(plan.schema());
        if !is_continuous(plan)? {
            return Ok(self.push(Op::Static { plan: Box::new(plan.clone()) }, Vec::new(), schema, true));
        }
        if has_subqueries(plan)? {
            return self.recompute_from_sources(plan, "a subquery that is not a join");
        }
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.node(&alias.input),
            LogicalPlan::Sort(Sort { input, fetch: None, .. }) => self.node(input),
            LogicalPlan::Repartition(repartition) => self.node(&repartition.input),
            LogicalPlan::Filter(filter) if temporal::depends(&filter.predicate)? => self.temporal(plan, filter, schema),
            LogicalPlan::Filter(filter) => self.filter(filter, schema),
            LogicalPlan::Projection(projection) if !random::calls(projection).is_empty() => {
                self.random(plan, projection, schema)
            }
            LogicalPlan::Projection(projection) => {
                let input = Arc::clone(projection.input.schema());
                let step = Step::Project { exprs: projection.expr.clone(), input, schema: Arc::clone(&schema) };
                self.stateless(step, &projection.input, schema)
            }
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.node(input)).collect::<Result<Vec<_>>>()?;
                let append_only = inputs.iter().all(|input| self.plan.nodes[*input].append_only);
                Ok(self.push(Op::Union, inputs, schema, append_only))
            }
            LogicalPlan::Unnest(unnest) => {
                let input = self.node(&unnest.input)?;
                let leaf = Placeholder::leaf(0, Arc::clone(unnest.input.schema()));
                let plan = Box::new(plan.with_new_exprs(plan.expressions(), vec![leaf])?);
                let append_only = self.plan.nodes[input].append_only;
                Ok(self.push(Op::Linear { plan }, vec![input], schema, append_only))
            }
            LogicalPlan::Aggregate(aggregate) => {
                if let [Expr::GroupingSet(sets)] = &aggregate.group_expr[..] {
                    return match grouping::build(self, aggregate, sets, schema)? {
                        Some(node) => Ok(node),
                        None => self.recompute(plan, "GROUPING SETS without a function"),
                    };
                }
                let input = self.node(&aggregate.input)?;
                let append_only = aggregate.aggr_expr.is_empty() && self.plan.nodes[input].append_only;
                let op = Op::Aggregate { aggregate: Box::new(aggregate.clone()) };
                Ok(self.push(op, vec![input], schema, append_only))
            }
            LogicalPlan::Join(join) => self.join(plan, join, schema),
            LogicalPlan::Limit(limit) => self.limit(plan, limit, schema),
            LogicalPlan::Sort(Sort { expr, input, fetch: Some(fetch) }) => {
                self.top(expr, input, (0, Some(*fetch)), schema)
            }
            LogicalPlan::Window(window) => self.window(plan, window, schema),
            LogicalPlan::Extension(extension) => self.extension(plan, extension, schema),
            LogicalPlan::RecursiveQuery(_) => self.recompute_from_sources(plan, "a recursive query"),
            other => self.recompute(other, "no operator for it"),
        }
    }

    /// A node of ours.
    fn extension(&mut self, plan: &LogicalPlan, extension: &Extension, schema: SchemaRef) -> Result<NodeId> {
        if let Some(sessions) = extension.node.as_any().downcast_ref::<Sessions>() {
            let input = self.node(&sessions.input)?;
            return Ok(self.push(Op::Sessions { sessions: Box::new(sessions.clone()) }, vec![input], schema, false));
        }
        if let Some(asof) = extension.node.as_any().downcast_ref::<AsOfJoin>() {
            let inputs = asof.sides().into_iter().map(|side| self.node(side)).collect::<Result<Vec<_>>>()?;
            return Ok(self.push(Op::AsOf { asof: Box::new(asof.clone()) }, inputs, schema, false));
        }
        if let Some(EmitFinal { input, closed: Some((column, _)) }) = EmitFinal::of(plan) {
            let node = self.node(input)?;
            let columns = Arc::clone(input.schema());
            let op = Op::Final { column: columns.index_of_column(column)?, input: columns };
            return Ok(self.push(op, vec![node], schema, true));
        }
        self.recompute(plan, "no operator for it")
    }

    /// Calls of random() and uuid(), behind the columns of the input.
    fn random(&mut self, plan: &LogicalPlan, projection: &Projection, schema: SchemaRef) -> Result<NodeId> {
        let input = self.node(&projection.input)?;
        if !self.plan.nodes[input].append_only {
            return Err(random::taken_back());
        }
        let place = hash(plan.display_indent().to_string().as_bytes());
        Ok(self.push(Op::Random { calls: random::calls(projection), place }, vec![input], schema, true))
    }

    fn join(&mut self, plan: &LogicalPlan, join: &Join, schema: SchemaRef) -> Result<NodeId> {
        if join.null_aware && (join.on.len() != 1 || join.filter.is_some()) {
            return self.recompute(plan, "NOT IN of more than one column");
        }
        let mut inputs = vec![self.node(&join.left)?, self.node(&join.right)?];
        let rests = |node: NodeId| matches!(self.plan.nodes[node].op, Op::Static { .. });
        let (left_rests, right_rests) = (rests(inputs[0]), rests(inputs[1]));
        if join.null_aware {
            inputs.push(inputs[1]);
        }
        let grows = inputs.iter().all(|input| self.plan.nodes[*input].append_only);
        let never_retracts = match join.join_type {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => true,
            JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => right_rests,
            JoinType::Right | JoinType::RightAnti | JoinType::RightMark => left_rests,
            JoinType::Full => false,
        };
        let op = Op::Join { join: Box::new(join.clone()), left_rests, right_rests };
        Ok(self.push(op, inputs, schema, grows && never_retracts))
    }

    fn window(&mut self, plan: &LogicalPlan, window: &Window, schema: SchemaRef) -> Result<NodeId> {
        match windows::looks(window)? {
            Some(Looks::Near(reach)) => {
                let input = self.node(&window.input)?;
                let plan = Box::new(windows::of_regions(window)?);
                return Ok(self.push(
                    Op::Near { window: Box::new(window.clone()), reach, plan },
                    vec![input],
                    schema,
                    false,
                ));
            }
            Some(Looks::Back(runs)) => {
                let input = self.node(&window.input)?;
                return Ok(self.push(
                    Op::Running { window: Box::new(window.clone()), runs },
                    vec![input],
                    schema,
                    false,
                ));
            }
            Some(Looks::Both(two)) => {
                let input = Arc::clone(two.schema());
                let column = |(table, field): (Option<&TableReference>, &FieldRef)| Expr::from((table, field));
                let exprs = window.schema.iter().map(column).collect();
                let step = Step::Project { exprs, input, schema: Arc::clone(&schema) };
                return self.stateless(step, &two, schema);
            }
            None => {}
        }
        let input = self.node(&window.input)?;
        let leaf = Placeholder::leaf(0, Arc::clone(window.input.schema()));
        let op = Op::Window {
            plan: Box::new(plan.with_new_exprs(plan.expressions(), vec![leaf])?),
            partition: windows::partition(window),
            input: Arc::clone(window.input.schema()),
        };
        Ok(self.push(op, vec![input], schema, false))
    }

    fn filter(&mut self, filter: &Filter, schema: SchemaRef) -> Result<NodeId> {
        let input = Arc::clone(filter.input.schema());
        let step = Step::Filter { predicate: filter.predicate.clone(), input };
        if let LogicalPlan::Window(window) = filter.input.as_ref()
            && let Some((ranks, limit)) = windows::ranking(window, &filter.predicate)
        {
            let ranked = self.ranking(window, ranks, limit)?;
            return Ok(self.push(Op::Stateless { steps: vec![step] }, vec![ranked], schema, false));
        }
        match windows::with_limit_beneath(filter)? {
            Some(limited) => self.node(&limited),
            None => self.stateless(step, &filter.input, schema),
        }
    }

    fn ranking(&mut self, window: &Window, ranks: Vec<Rank>, limit: RankLimit) -> Result<NodeId> {
        let input = self.node(&window.input)?;
        let op = Op::Ranking { window: Box::new(window.clone()), ranks, limit };
        Ok(self.push(op, vec![input], arrow_schema(&window.schema), false))
    }

    fn stateless(&mut self, step: Step, input: &LogicalPlan, schema: SchemaRef) -> Result<NodeId> {
        let input = self.node(input)?;
        let append_only = self.plan.nodes[input].append_only;
        Ok(self.push(Op::Stateless { steps: vec![step] }, vec![input], schema, append_only))
    }

    /// A filter that depends on the time of the epoch.
    fn temporal(&mut self, plan: &LogicalPlan, filter: &Filter, schema: SchemaRef) -> Result<NodeId> {
        let (predicate, below) = (&filter.predicate, filter.input.as_ref());
        let parts = temporal::parts(predicate, below.schema())?;
        if parts.others.is_some() {
            return self.recompute(plan, "a condition on the time that is no comparison with it");
        }
        let mut node = self.node(below)?;
        if let Some(predicate) = parts.rest {
            let append_only = self.plan.nodes[node].append_only;
            let steps = vec![Step::Filter { predicate, input: Arc::clone(below.schema()) }];
            node = self.push(Op::Stateless { steps }, vec![node], Arc::clone(&schema), append_only);
        }
        Ok(self.push(Op::Temporal { bounds: parts.bounds }, vec![node], schema, false))
    }

    fn limit(&mut self, plan: &LogicalPlan, limit: &Limit, schema: SchemaRef) -> Result<NodeId> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return self.recompute(plan, "a LIMIT that is computed");
        };
        if let LogicalPlan::Sort(Sort { expr, input, .. }) = limit.input.as_ref() {
            return self.top(expr, input, (skip, fetch), schema);
        }
        let input = self.node(&limit.input)?;
        if self.plan.nodes[input].append_only {
            return Ok(self.push(Op::First { skip, fetch }, vec![input], schema, true));
        }
        self.top(&[], &limit.input, (skip, fetch), schema)
    }

    fn top(
        &mut self,
        sort: &[SortExpr],
        input: &LogicalPlan,
        (skip, fetch): (usize, Option<usize>),
        schema: SchemaRef,
    ) -> Result<NodeId> {
        let op = Op::Top { sort: sort.to_vec(), input: Arc::clone(input.schema()), skip, fetch };
        let input = self.node(input)?;
        Ok(self.push(op, vec![input], schema, false))
    }

    fn scan(&mut self, scan: &TableScan) -> Result<NodeId> {
        let table = source_as_provider(&scan.source)?;
        if let Some(view) = table.downcast_ref::<Maintained>() {
            return self.view(scan, view);
        }
        let name = scan.table_name.to_string();
        let columns = projected(scan, &table);
        let source = match self.plan.sources.iter().position(|source| Arc::ptr_eq(&source.table, &table)) {
            Some(known) => known,
            None => {
                self.plan.sources.push(SourceNode { name, table: Arc::clone(&table), columns: Vec::new() });
                self.plan.sources.len() - 1
            }
        };
        let schema = arrow_schema(&scan.projected_schema);
        let upkeep = table.downcast_ref::<StreamTable>().and_then(StreamTable::upkeep);
        let node = match upkeep {
            Some(upkeep) => self.net(source, upkeep, &columns, schema)?,
            None => self.push(Op::Scan { source, columns }, Vec::new(), schema, true),
        };
        // A limit that was handed down to a scan stays above it too.
        if scan.filters.is_empty() {
            return Ok(node);
        }
        Err(Error::query(format!("{}: a filter was pushed into a stream", scan.table_name)))
    }

    /// Columns of what is there of a source whose rows change and go. Of each such source one node keeps it.
    fn net(&mut self, source: usize, upkeep: &Upkeep, columns: &[usize], schema: SchemaRef) -> Result<NodeId> {
        let table = Arc::clone(&self.plan.sources[source].table);
        let (node, kept) = match self.net.get(&source) {
            Some(known) => known.clone(),
            None => {
                let wanted = self.needed.iter().find(|(known, _)| Arc::ptr_eq(known, &table));
                let wanted: Vec<usize> = wanted.map_or(Vec::new(), |(_, columns)| columns.iter().copied().collect());
                let kept = upkeep.columns(&wanted, &table.schema());
                let rows = nullable(&table.schema().project(&kept)?);
                let read = rows.fields().iter().cloned().chain([Arc::new(Field::new(OP, DataType::Int8, false))]);
                let read = Arc::new(Schema::new(read.collect::<Vec<_>>()));
                let scan = self.push(Op::Scan { source, columns: kept.clone() }, Vec::new(), read, true);
                let key = upkeep.key.iter().filter_map(|at| kept.binary_search(at).ok()).collect();
                let op = Op::Net { source, key, on_missing: upkeep.on_missing };
                let node = self.push(op, vec![scan], rows, false);
                self.net.insert(source, (node, kept.clone()));
                (node, kept)
            }
        };
        if kept == columns {
            return Ok(node);
        }
        let input = Arc::new(DFSchema::try_from(Arc::clone(&self.plan.nodes[node].schema))?);
        let exprs = columns.iter().map(|at| Expr::Column(Column::from_name(table.schema().field(*at).name())));
        let step = Step::Project { exprs: exprs.collect(), input, schema: Arc::clone(&schema) };
        Ok(self.push(Op::Stateless { steps: vec![step] }, vec![node], schema, false))
    }

    /// The one node of a view, and the columns of it that are read.
    fn view(&mut self, scan: &TableScan, view: &Maintained) -> Result<NodeId> {
        let plan = match view.plan() {
            LogicalPlan::Sort(Sort { input, fetch: None, .. }) => input.as_ref(),
            plan => plan,
        };
        let node = self.node(plan)?;
        let Some(columns) = &scan.projection else { return Ok(node) };
        let input = Arc::clone(plan.schema());
        let exprs = columns.iter().map(|at| Expr::Column(input.qualified_field(*at).into()));
        let schema = arrow_schema(&scan.projected_schema);
        let step = Step::Project { exprs: exprs.collect(), input, schema: Arc::clone(&schema) };
        let append_only = self.plan.nodes[node].append_only;
        Ok(self.push(Op::Stateless { steps: vec![step] }, vec![node], schema, append_only))
    }

    /// A node that computes the operator anew over all that its inputs hold.
    fn recompute(&mut self, plan: &LogicalPlan, reason: &str) -> Result<NodeId> {
        let mut inputs = Vec::new();
        let mut leaves = Vec::new();
        for (at, input) in plan.inputs().into_iter().enumerate() {
            inputs.push(self.node(input)?);
            leaves.push(Placeholder::leaf(at, Arc::clone(input.schema())));
        }
        let schema = arrow_schema(plan.schema());
        let plan = Box::new(plan.with_new_exprs(plan.expressions(), leaves)?);
        Ok(self.push(Op::Recompute { plan, reason: reason.to_owned() }, inputs, schema, false))
    }

    /// The same for a whole tree, down to the growing tables.
    fn recompute_from_sources(&mut self, plan: &LogicalPlan, reason: &str) -> Result<NodeId> {
        random::refuse(plan, reason)?;
        let mut inputs = Vec::new();
        let replaced = plan.clone().transform_down_with_subqueries(|node| match node {
            LogicalPlan::TableScan(scan) if is_stream(&scan) => {
                let leaf = Placeholder::leaf(inputs.len(), Arc::clone(&scan.projected_schema));
                inputs.push(self.scan(&scan)?);
                Ok(Transformed::yes(leaf))
            }
            node => Ok(Transformed::no(node)),
        })?;
        let schema = arrow_schema(plan.schema());
        let op = Op::Recompute { plan: Box::new(replaced.data), reason: reason.to_owned() };
        Ok(self.push(op, inputs, schema, false))
    }
}

/// True if an expression of this very node holds a query.
fn has_subqueries(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_expressions(|expr| {
        found |= expr.exists(|expr| {
            let query = matches!(
                expr,
                Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
            );
            Ok(query)
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// A stateless node that has one consumer, itself stateless, becomes part of it.
fn fuse_stateless(plan: &mut IncrementalPlan) {
    let mut consumers = vec![0_usize; plan.nodes.len()];
    for input in plan.nodes.iter().flat_map(|node| &node.inputs) {
        consumers[*input] += 1;
    }
    for output in &plan.outputs {
        consumers[output.node] += 1;
    }
    for at in 0..plan.nodes.len() {
        let [input] = plan.nodes[at].inputs[..] else { continue };
        let Op::Stateless { steps: below } = &plan.nodes[input].op else { continue };
        if consumers[input] != 1 || !matches!(plan.nodes[at].op, Op::Stateless { .. }) {
            continue;
        }
        let (below, inputs) = (below.clone(), plan.nodes[input].inputs.clone());
        if let Op::Stateless { steps } = &mut plan.nodes[at].op {
            steps.splice(0..0, below);
        }
        plan.nodes[at].inputs = inputs;
        // Nothing reads it any more; it stays as an empty union, so that places hold.
        let schema = Arc::new(Schema::empty());
        plan.nodes[input] = Node { op: Op::Union, inputs: Vec::new(), schema, append_only: true, evict: Vec::new() };
    }
}

/// Each source reads the columns that any scan of it needs.
fn prune_sources(plan: &mut IncrementalPlan) {
    for (at, source) in plan.sources.iter_mut().enumerate() {
        let scans = plan.nodes.iter().filter_map(|node| match &node.op {
            Op::Scan { source, columns } if *source == at => Some(columns),
            _ => None,
        });
        source.columns = scans.flatten().copied().collect();
        if let Some((table, event_time)) = source.stream().and_then(|table| Some((table, table.watermark()?))) {
            // Whether a row is late has to be known; one that is kept is kept whole.
            let all = if event_time.keeps_late { 0..table.columns().fields().len() } else { 0..0 };
            source.columns.extend(all.chain([event_time.column]));
        }
        source.columns.sort_unstable();
        source.columns.dedup();
        if source.columns.is_empty() {
            // count(*) needs rows, and rows need a column.
            source.columns.push(0);
        }
    }
}
