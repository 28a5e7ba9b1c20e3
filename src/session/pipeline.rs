//! Statements over growing tables, and the pipeline that they make.
//!
//! Enters: planned statements. Leaves: one [`Pipeline`] of all of them, with their sinks. Always holds: nothing is
//! written before it runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::{MemTable, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    CreateView, DdlStatement, DmlStatement, LogicalPlan, Statement as PlanStatement, WriteOp,
};
use datafusion::physical_expr::{LexOrdering, create_physical_sort_exprs};
use datafusion::physical_plan::sorts::sort::sort_batch;
use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::{ObjectType, Statement as Sql};

use super::rows::reconfigured;
use super::{Outcome, Rows, Session, threads};
use crate::checkpoint::{Explained, Identity, StateStore};
use crate::clock::EpochTime;
use crate::config::OnFullRecompute;
use crate::database::{Address, Connections};
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::folder::listing_of;
use crate::function::{plan_in_sql, with_epoch_time};
use crate::kafka::{TopicTarget, Values};
use crate::planner::{self, EmitFinal, IncrementalPlan, Maintained, Target};
use crate::runtime::{OpenSource, Pipeline, Planned};
#[cfg(feature = "kafka")]
use crate::sink::stream::KafkaSink;
use crate::sink::stream::{
    AppendSink, DatabaseSink, FileEncoding, Mode, Order, ReplaceSink, Sink, SinkOptions, choose_mode,
};
use crate::source::stream::{Look, open_source};
use crate::source::{DatabaseTable, Location, Stores, TopicTable};

/// A statement that becomes part of a pipeline.
pub(super) struct Continuous {
    /// Its query.
    plan: LogicalPlan,
    target: Option<SinkTarget>,
}

/// Where a statement writes.
enum SinkTarget {
    Files(FileTarget),
    Topic(TopicTarget),
    /// A table in a database, and the places of the columns of its key.
    Database(Address, Vec<usize>),
}

/// Files that a statement writes.
struct FileTarget {
    text: String,
    folder: bool,
    encoding: FileEncoding,
    partitions: Vec<String>,
    options: SinkOptions,
    /// COPY expects nothing there.
    must_be_new: bool,
}

/// Makes the sink for rows that go to the screen: their columns, whether they are never retracted, their order.
pub type Console<'a> = &'a dyn Fn(SchemaRef, bool, Option<Order>) -> Box<dyn Sink>;

/// A materialized view is planned as a view; true if it was one. Over tables at rest it stays one. A stream is a table.
pub(super) fn unmaterialize(body: &mut Body) -> bool {
    let Body::Statement(sql) = body else { return false };
    match sql.as_mut() {
        Sql::CreateView(view) => return std::mem::take(&mut view.materialized),
        Sql::Drop { object_type, .. } => match object_type {
            ObjectType::MaterializedView => *object_type = ObjectType::View,
            ObjectType::Stream => *object_type = ObjectType::Table,
            _ => {}
        },
        _ => {}
    }
    false
}

/// True for an INSERT or the like into a table that is nowhere but in memory.
pub(super) fn fills_memory(plan: &LogicalPlan) -> Result<bool> {
    let LogicalPlan::Dml(dml) = plan else { return Ok(false) };
    Ok(source_as_provider(&dml.target)?.downcast_ref::<MemTable>().is_some())
}

/// True for a query or a write over a growing table.
pub(super) fn is_continuous(plan: &LogicalPlan) -> Result<bool> {
    match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) if planner::is_continuous(&table.input)? => {
            Err(Error::sql(format!("{} would never be finished: its query reads a growing table", table.name))
                .hint("CREATE MATERIALIZED VIEW keeps it up to date; COPY … TO writes it"))
        }
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::DescribeTable(_) => Ok(false),
        plan => planner::is_continuous(plan),
    }
}

impl Session {
    /// Keeps how pipelines write to a created table.
    pub(super) fn remember_sink(&self, table: &str, target: &Target) -> Result<()> {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.insert(table.to_owned(), target.sink_options()?);
        Ok(())
    }

    /// Takes a statement into the pipeline.
    pub(super) fn defer(&self, plan: LogicalPlan, target: Option<Target>, emits_final: bool) -> Result<Outcome> {
        let mut continuous = self.continuous(plan, target)?;
        if emits_final {
            continuous.plan = EmitFinal::plan(continuous.plan);
        }
        let read = planner::maintained_views(&continuous.plan)?;
        self.views.lock().unwrap_or_else(PoisonError::into_inner).retain(|view| !read.contains(view));
        let mut all = self.continuous.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(continuous);
        Ok(Outcome::Continuous)
    }

    /// Makes a materialized view over growing tables; false if it is over tables at rest.
    pub(super) fn maintain(&self, view: &CreateView, emits_final: bool) -> Result<bool> {
        if !planner::is_continuous(&view.input)? {
            return Ok(false);
        }
        if self.context.table_exist(view.name.clone())? {
            if !view.or_replace {
                return Err(Error::sql(format!("there is a table named {} already", view.name))
                    .hint("CREATE OR REPLACE MATERIALIZED VIEW takes its place"));
            }
            self.context.deregister_table(view.name.clone())?;
        }
        let plan = LogicalPlan::clone(&view.input);
        let plan = if emits_final { EmitFinal::plan(plan) } else { plan };
        self.context.register_table(view.name.clone(), Arc::new(Maintained::new(plan)))?;
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(view.name.table().to_owned());
        Ok(true)
    }

    /// The materialized views over growing tables that no statement has read since the last call.
    pub fn unread_views(&self) -> Vec<String> {
        let views = std::mem::take(&mut *self.views.lock().unwrap_or_else(PoisonError::into_inner));
        views.into_iter().collect()
    }

    fn continuous(&self, plan: LogicalPlan, target: Option<Target>) -> Result<Continuous> {
        match plan {
            LogicalPlan::Copy(copy) => {
                let target = target.ok_or_else(|| Error::sql("COPY to nowhere"))?;
                let plan = LogicalPlan::clone(&copy.input);
                Ok(Continuous { plan, target: Some(SinkTarget::Files(copy_target(&copy, &target)?)) })
            }
            LogicalPlan::Dml(dml) => {
                let target = self.insert_target(&dml)?;
                Ok(Continuous { plan: LogicalPlan::clone(&dml.input), target: Some(target) })
            }
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => {
                Err(Error::sql("EXPLAIN of a query over a growing table").hint("write EXPLAIN INCREMENTAL SELECT …"))
            }
            LogicalPlan::Statement(PlanStatement::Execute(_)) => {
                Err(Error::sql("a prepared statement cannot read a growing table"))
            }
            plan => Ok(Continuous { plan, target: None }),
        }
    }

    fn insert_target(&self, dml: &DmlStatement) -> Result<SinkTarget> {
        let name = dml.table_name.to_string();
        if !matches!(dml.op, WriteOp::Insert(_)) {
            return Err(Error::sql(format!("a growing table can only be inserted into {name}")));
        }
        let table = source_as_provider(&dml.target)?;
        if let Some(table) = table.downcast_ref::<DatabaseTable>() {
            return Ok(SinkTarget::Database(table.address().clone(), table.key().to_vec()));
        }
        let sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let options = sinks.get(&name).cloned().unwrap_or_default();
        drop(sinks);
        if let Some(topic) = table.downcast_ref::<TopicTable>() {
            return Ok(SinkTarget::Topic(topic_target(topic.target(), &options)?));
        }
        let Some(table) = listing_of(table.as_ref()) else {
            return Err(Error::sql(format!("a pipeline cannot write to {name}")).hint(
                "CREATE EXTERNAL TABLE … STORED AS PARQUET LOCATION 'folder/' makes a table that it can write to",
            ));
        };
        let path = table.table_paths().first().ok_or_else(|| Error::sql(format!("{name} has no LOCATION")))?;
        let listing = table.options();
        Ok(SinkTarget::Files(FileTarget {
            text: percent_encoding::percent_decode_str(path.as_str().trim_start_matches("file://"))
                .decode_utf8_lossy()
                .into_owned(),
            folder: path.is_collection(),
            encoding: encoding(&listing.format.get_ext(), None)?,
            partitions: listing.table_partition_cols.iter().map(|(name, _)| name.clone()).collect(),
            options,
            must_be_new: false,
        }))
    }

    /// Optimised for operators of our own.
    fn pipeline_state(&self) -> SessionState {
        let state = self.context.state();
        let mut config = state.config().clone();
        let options = config.options_mut();
        options.optimizer.enable_dynamic_filter_pushdown = false;
        // Subqueries become joins, which have an operator.
        options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        options.execution.target_partitions = 1;
        reconfigured(&state, config)
    }

    /// The pipeline of all statements over growing tables; nothing if there were none.
    pub fn pipeline(&self, console: Console<'_>) -> Result<Option<Pipeline>> {
        let mut all = self.continuous.lock().unwrap_or_else(PoisonError::into_inner);
        let statements = std::mem::take(&mut *all);
        drop(all);
        if statements.is_empty() {
            return Ok(None);
        }
        let state = self.pipeline_state();
        let time = EpochTime::default();
        let plans = statements
            .iter()
            .map(|statement| Ok((optimised(&state, statement.plan.clone(), &time)?, statement.is_shown_whole())));
        let plans = plans.collect::<Result<Vec<_>>>()?;
        let plan = planner::differentiate(&plans)?;
        let recomputed = self.recomputed(&plan)?;
        refuse_shared_pipes(&plan)?;
        let open = source_opener(&self.stores, &state);
        let source = |source: &planner::SourceNode| {
            let table = source.stream().ok_or_else(|| Error::query(format!("{} does not grow", source.name)))?;
            open(table, &source.columns)
        };
        let sources = plan.sources.iter().map(source).collect::<Result<Vec<_>>>()?;
        let (mut sinks, mut targets, connections) = (Vec::new(), Vec::new(), Connections::default());
        for (statement, output) in statements.iter().zip(&plan.outputs) {
            // As optimised: until then, a type that is coerced is not known.
            let columns = Arc::clone(output.columns.inner());
            let append_only = plan.nodes[output.node].append_only;
            let order = order(output, &state)?;
            match &statement.target {
                Some(SinkTarget::Files(target)) => {
                    targets.push(target.describe());
                    sinks.push(self.file_sink(target, columns, append_only, order)?);
                }
                Some(SinkTarget::Topic(target)) => {
                    targets.push(target.describe());
                    sinks.push(topic_sink(target, columns, append_only, sinks.len())?);
                }
                Some(SinkTarget::Database(address, key)) => {
                    targets.push(format!("{address:?}"));
                    sinks.push(database_sink((address, key), &connections, sinks.len(), columns, append_only)?);
                }
                None => {
                    targets.push("console".to_owned());
                    sinks.push(console(columns, append_only, order));
                }
            }
        }
        let (plan, batch) = (Arc::new(plan), self.context.state());
        let planned = |(Continuous { plan, target }, optimised): (Continuous, LogicalPlan)| -> Result<Planned> {
            // Which rows are final is known of the optimised plan.
            let plan = if planner::emits_final(&optimised)? { optimised } else { plan };
            Ok(Planned { plan, target: target.map_or_else(|| "console".to_owned(), SinkTarget::text) })
        };
        let statements =
            statements.into_iter().zip(plans.into_iter().map(|(plan, _)| plan)).map(planned).collect::<Result<_>>()?;
        Ok(Some(Pipeline {
            plan,
            sources,
            sinks,
            targets,
            state,
            shards: threads(&self.settings()),
            time,
            recomputed,
            evolved_from: None,
            statements,
            batch,
            open,
        }))
    }

    /// What the user should know of, or has forbidden.
    fn recomputed(&self, plan: &IncrementalPlan) -> Result<Vec<(String, String)>> {
        let recomputed = plan.recomputed()?;
        match (self.settings().on_full_recompute.parse()?, recomputed.first()) {
            (OnFullRecompute::Allow, _) => Ok(Vec::new()),
            (OnFullRecompute::Warn, _) | (_, None) => Ok(recomputed),
            (OnFullRecompute::Error, Some((operator, reason))) => Err(Error::sql(format!(
                "{operator} is computed anew from all input at each change: {reason}"
            ))
            .hint("EXPLAIN INCREMENTAL shows all operators; SET fuse.on_full_recompute = 'allow' lets them run")),
        }
    }

    fn file_sink(
        &self,
        target: &FileTarget,
        columns: SchemaRef,
        append_only: bool,
        order: Option<Order>,
    ) -> Result<Box<dyn Sink>> {
        let mode = choose_mode(target.options.mode, append_only, target.folder, &target.text)?;
        let (folder, name) = open_folder(&self.stores, &target.text, target.folder)?;
        if mode == Mode::Replace {
            return Ok(Box::new(ReplaceSink::new(folder, name, target.encoding, columns, order)?));
        }
        let place = |name: &String| Ok(columns.index_of(name)?);
        let partitions = target.partitions.iter().map(place).collect::<Result<Vec<_>>>()?;
        let roll = target.options.roll.clone();
        let new = target.must_be_new && target.options.mode.is_none();
        Ok(Box::new(AppendSink::new(folder, target.encoding, columns, partitions, mode, roll, new)?))
    }

    /// The folder of a pipeline's state.
    pub fn state_folder(&self, text: &str) -> Result<Folder> {
        if text.contains("://") {
            return Ok(open_folder(&self.stores, &format!("{}/", text.trim_end_matches('/')), true)?.0);
        }
        Folder::local(Path::new(text))
    }

    /// Takes the columns of growing tables from the state of their pipeline, if it was run before, and what its
    /// operators have cost.
    pub async fn remember(&self, folder: &Folder) -> Result<()> {
        // A damaged state is told when it is opened.
        let Ok(Some(known)) = Identity::read(folder).await else { return Ok(()) };
        for (table, record) in &known.found {
            self.remembered.put(table.clone(), Look::from_record(record)?);
        }
        if let Some(newest) = StateStore::list(folder.clone()).await.unwrap_or_default().first() {
            self.remember_work(&newest.operators);
        }
        Ok(())
    }

    /// EXPLAIN INCREMENTAL tells what these operators have cost.
    pub fn remember_work(&self, operators: &[Explained]) {
        let mut worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        worked.extend(operators.iter().map(|line| (line.work.key.clone(), line.work.clone())));
    }

    /// Takes the columns of one growing table.
    pub fn remember_table(&self, table: &str, look: Look) {
        self.remembered.put(table.to_owned(), look);
    }

    /// EXPLAIN INCREMENTAL.
    pub(super) async fn explain_incremental(
        &self,
        plan: LogicalPlan,
        target: Option<Target>,
        emits_final: bool,
    ) -> Result<Outcome> {
        let statement = self.continuous(plan, target)?;
        let whole = statement.is_shown_whole();
        let plan = if emits_final { EmitFinal::plan(statement.plan) } else { statement.plan };
        let optimised = optimised(&self.pipeline_state(), plan, &EpochTime::default())?;
        let mut lines = planner::differentiate(&[(optimised, whole)])?.explain()?;
        let worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for line in &mut lines {
            if let Some(known) = worked.get(&line.work.key) {
                line.work = known.clone();
            }
        }
        let batch = explained(&lines)?;
        let (state, plan) = self.context.read_batch(batch)?.into_parts();
        Ok(Outcome::Rows(Rows::start(state, plan, &self.current).await?))
    }
}

/// The plan of a statement and those of the views that it reads, optimised, with the epoch's time.
fn optimised(state: &SessionState, plan: LogicalPlan, time: &EpochTime) -> Result<LogicalPlan> {
    let plan = planner::map_views(plan, &|view| optimised(state, view.clone(), time))?;
    planner::with_calls_beneath(planner::place_final(state.optimize(&with_epoch_time(plan, time)?)?)?)
}

/// A pipe gives its bytes once.
fn refuse_shared_pipes(plan: &IncrementalPlan) -> Result<()> {
    let mut pipes: BTreeMap<String, &str> = BTreeMap::new();
    for source in &plan.sources {
        if let Some(pipe) = source.stream().and_then(|table| table.pipe())
            && let Some(other) = pipes.insert(pipe.clone(), &source.name)
        {
            return Err(Error::sql(format!(
                "{other} and {} both read {pipe}, which gives its bytes once",
                source.name
            ))
            .hint("make one table of it, and read that twice"));
        }
    }
    Ok(())
}

/// A folder, or the folder of a file and the file's name.
fn open_folder(stores: &Stores, text: &str, folder: bool) -> Result<(Folder, String)> {
    let location = Location::parse(text)?;
    if let Some(path) = location.local_path() {
        if folder {
            return Ok((Folder::local(&path)?, String::new()));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok((Folder::local(path.parent().unwrap_or(Path::new("/")))?, name));
    }
    let store = stores.direct(location.url.get_url())?;
    let prefix = location.url.prefix().clone();
    if folder {
        return Ok((Folder::remote(store, prefix), String::new()));
    }
    let mut parts: Vec<_> = prefix.parts().map(|part| part.as_ref().to_owned()).collect();
    let name = parts.pop().unwrap_or_default();
    Ok((Folder::remote(store, object_store::path::Path::from_iter(parts)), name))
}

/// Opens sources of growing tables.
fn source_opener(stores: &Arc<Stores>, state: &SessionState) -> OpenSource {
    let (stores, state) = (Arc::clone(stores), state.clone());
    Arc::new(move |table, columns| {
        let folder = |text: &str| Ok(open_folder(&stores, &format!("{}/", text.trim_end_matches('/')), true)?.0);
        open_source(table, columns, &state, &folder)
    })
}

impl Continuous {
    /// True if its result is shown as a whole, and so in order.
    fn is_shown_whole(&self) -> bool {
        match &self.target {
            Some(SinkTarget::Files(target)) => !target.folder,
            Some(SinkTarget::Topic(_) | SinkTarget::Database(..)) => false,
            None => true,
        }
    }
}

impl SinkTarget {
    /// As the statement has it.
    fn text(self) -> String {
        match self {
            SinkTarget::Files(target) => target.text,
            SinkTarget::Topic(target) => format!("kafka://{}/{}", target.topic.brokers, target.topic.name),
            SinkTarget::Database(address, _) => format!("{address:?}"),
        }
    }
}

/// The sink of a table and its key. `place`: which one of its pipeline it is.
fn database_sink(
    (address, key): (&Address, &[usize]),
    connections: &Connections,
    place: usize,
    columns: SchemaRef,
    append_only: bool,
) -> Result<Box<dyn Sink>> {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    Ok(Box::new(DatabaseSink::new(address.clone(), connections, place, columns, key.to_vec(), append_only)?))
}

/// A topic, written as OPTIONS ('mode' …) say.
fn topic_target(target: &TopicTarget, options: &SinkOptions) -> Result<TopicTarget> {
    let values = match options.mode {
        Some(Mode::Replace) => {
            return Err(Error::sql("a topic is not replaced: messages are added to it")
                .hint("with a PRIMARY KEY the last message of a key is the row as it is now"));
        }
        Some(Mode::Changelog) if target.values == Values::Envelopes => {
            return Err(Error::sql("STORED AS DEBEZIUM has an op of its own, and no mode 'changelog'"));
        }
        Some(Mode::Changelog) => Values::Changelog,
        Some(Mode::Append) | None => target.values,
    };
    Ok(TopicTarget { values, ..target.clone() })
}

/// The sink of a topic. `place`: which one of its pipeline it is.
fn topic_sink(target: &TopicTarget, columns: SchemaRef, append_only: bool, place: usize) -> Result<Box<dyn Sink>> {
    if !append_only && target.values == Values::Rows && target.key.is_empty() {
        return Err(Error::sql(format!(
            "rows of this query change after they were written, and the topic {} has no key",
            target.topic.name
        ))
        .note("a PRIMARY KEY of the table makes messages of one key replace each other, without a value where a row is gone")
        .hint("STORED AS DEBEZIUM writes each change as an envelope, OPTIONS ('mode' 'changelog') as a row with op and epoch"));
    }
    open_topic(target, columns, place)
}

#[cfg(feature = "kafka")]
fn open_topic(target: &TopicTarget, columns: SchemaRef, place: usize) -> Result<Box<dyn Sink>> {
    Ok(Box::new(KafkaSink::new(target.clone(), columns, place)?))
}

#[cfg(not(feature = "kafka"))]
fn open_topic(target: &TopicTarget, _columns: SchemaRef, _place: usize) -> Result<Box<dyn Sink>> {
    Err(target.topic.not_built_in())
}

impl FileTarget {
    fn describe(&self) -> String {
        let partitions = match self.partitions.join(", ") {
            none if none.is_empty() => none,
            names => format!(", partitioned by {names}"),
        };
        let mode = self.options.mode.map_or(String::new(), |mode| format!(", {mode:?}").to_lowercase());
        let delimiter = match self.encoding {
            FileEncoding::Csv(delimiter @ (0..=8 | 10..=43 | 45..)) => format!(" with '{}'", char::from(delimiter)),
            _ => String::new(),
        };
        format!("{} as {}{delimiter}{mode}{partitions}", self.text, self.encoding.ending())
    }
}

/// The rows of EXPLAIN INCREMENTAL. What operators have cost is there if any of them has run.
fn explained(lines: &[Explained]) -> Result<RecordBatch> {
    let text =
        |of: fn(&Explained) -> &String| Arc::new(StringArray::from_iter_values(lines.iter().map(of))) as ArrayRef;
    let operators = lines.iter().map(|line| plan_in_sql(&line.operator));
    let mut columns = vec![
        ("operator", Arc::new(StringArray::from_iter_values(operators)) as ArrayRef),
        ("strategy", text(|line| &line.strategy)),
        ("output", text(|line| &line.output)),
        ("reason", text(|line| &line.reason)),
    ];
    let ran = |line: &Explained| line.work.epochs > 0;
    if lines.iter().any(ran) {
        let count = |of: fn(&Explained) -> u64| {
            let counts = lines.iter().map(|line| ran(line).then(|| i64::try_from(of(line)).unwrap_or(i64::MAX)));
            Arc::new(Int64Array::from_iter(counts)) as ArrayRef
        };
        let micros = lines.iter().map(|line| ran(line).then(|| (line.work.epoch_micros() * 10.0).round() / 10.0));
        columns.push(("state_rows", count(|line| line.work.rows)));
        columns.push(("state_bytes", count(|line| line.work.bytes)));
        columns.push(("epochs", count(|line| line.work.epochs)));
        columns.push(("epoch_micros", Arc::new(Float64Array::from_iter(micros))));
    }
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn copy_target(copy: &CopyTo, target: &Target) -> Result<FileTarget> {
    let delimiter = copy.options.get("format.delimiter").and_then(|text| text.bytes().next());
    Ok(FileTarget {
        text: target.text.clone(),
        folder: target.folder,
        encoding: encoding(&copy.file_type.get_ext(), delimiter)?,
        partitions: copy.partition_by.clone(),
        options: target.sink_options()?,
        must_be_new: true,
    })
}

fn encoding(ending: &str, delimiter: Option<u8>) -> Result<FileEncoding> {
    match ending {
        "parquet" => Ok(FileEncoding::Parquet),
        "csv" => Ok(FileEncoding::Csv(delimiter.unwrap_or(b','))),
        "json" => Ok(FileEncoding::Json),
        other => {
            Err(Error::sql(format!("a pipeline cannot write .{other} files")).hint("Parquet, CSV and JSON it can"))
        }
    }
}

/// Puts rows in the order of the statement.
fn order(output: &planner::Output, state: &SessionState) -> Result<Option<Order>> {
    let context = PhysicalPlanningContext::default();
    let exprs = create_physical_sort_exprs(&output.sort, &output.columns, state.execution_props(), &context)?;
    let Some(ordering) = LexOrdering::new(exprs) else { return Ok(None) };
    Ok(Some(Order::new(Arc::new(move |rows: &RecordBatch| Ok(sort_batch(rows, &ordering, None)?)), output.hidden)))
}
