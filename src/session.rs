//! The one door: a statement enters, its outcome leaves.
//!
//! Enters: parsed statements, one at a time. Leaves: rows, or what was done. Always holds: what a statement
//! writes shows when it has succeeded as a whole, and not before; a failed one leaves nothing.
//!
//! The life of a statement: [`crate::parser`] → [`planner::prepare`] → DataFusion's logical plan →
//! [`Session::run_plan`] → physical plan → a stream of batches, or [`Writes::commit`].

mod chart;
mod keys;
mod narrow;
mod pipeline;
mod progress;
mod rows;
mod settings;
mod shared;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, UInt64Array};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{DynamicFileCatalog, TableProvider, UrlTableFactory};
use datafusion::common::tree_node::TreeNode;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, Execute, LogicalPlan, LogicalPlanBuilder, Statement as PlanStatement,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as Body;
use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;

use crate::catalog::{PathTables, explain_unknown_name};
use crate::checkpoint::Work;
use crate::config::{self, Settings};
use crate::durable::Writes;
use crate::error::{Error, Result};
use crate::parser::{self, Reading, Script, Statement};
use crate::planner::Macros;
use crate::sink::stream::SinkOptions;
use crate::source::Stores;
use crate::source::stream::Remembered;
use crate::{function, planner, sink, source};

use self::pipeline::Continuous;
use self::progress::Current;

pub use self::pipeline::Console;
pub use self::progress::{Operator, Progress, Watch, size};
pub use self::rows::Rows;
use self::rows::with_sorted_joins;
use self::settings::{explain_setting, list_settings, memory_limit, memory_pool, spill_folder, threads, validate};

/// A session: the tables, views and settings that statements share.
pub struct Session {
    context: SessionContext,
    paths: Arc<PathTables>,
    stores: Arc<Stores>,
    writes: Writes,
    /// Statements over growing tables, which run together.
    continuous: Mutex<Vec<Continuous>>,
    /// How pipelines write to created tables.
    sinks: Mutex<HashMap<String, SinkOptions>>,
    /// Materialized views over growing tables that nothing has read.
    views: Mutex<BTreeSet<String>>,
    /// The columns of growing tables as an earlier run found them.
    remembered: Arc<Remembered>,
    /// What operators have cost in runs that this session knows of, by their keys.
    worked: Mutex<HashMap<String, Work>>,
    macros: Macros,
    current: Current,
    /// Holds what did not fit in memory. Dropped, it is removed, also while a stopped query still runs.
    _spill: TempDir,
}

/// What a plan that writes gave, and what EXPLAIN ANALYZE saw of it.
type Staged = (Vec<RecordBatch>, Option<Vec<Operator>>);

/// What a statement gave.
pub enum Outcome {
    /// Rows to print.
    Rows(Rows),
    /// It wrote rows.
    Written {
        /// How many.
        rows: u64,
        /// Where to, as the statement says it.
        target: String,
    },
    /// It changed the session.
    Done,
    /// It reads a growing table: it becomes part of [`Session::pipeline`].
    Continuous,
}

impl Session {
    /// A session with these settings.
    pub fn new(settings: Settings) -> Result<Self> {
        let writes = Writes::default();
        let stores = Arc::new(Stores::new(writes.clone()));
        let memory = memory_limit(&settings)?;
        let spill = spill_folder(&settings.temp_dir)?;
        let mode = DiskManagerMode::Directories(vec![spill.path().to_owned()]);
        let disk = DiskManagerBuilder::default().with_mode(mode);
        // Listings are not cached: a file that appears is seen, one that is replaced is read anew.
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(memory_pool(memory))
            .with_disk_manager_builder(disk)
            .with_object_list_cache_limit(0)
            .with_object_store_registry(Arc::clone(&stores) as Arc<dyn ObjectStoreRegistry>)
            .build_arc()?;
        let threads = threads(&settings);
        let remembered = Arc::new(Remembered::default());
        let config = config::session_config()
            .with_extension(Arc::clone(&remembered))
            .with_target_partitions(threads)
            .with_sort_spill_reservation_bytes(config::sort_reservation(memory, threads))
            .with_option_extension(settings);
        let mut state = SessionStateBuilder::new()
            .with_analyzer_rules(planner::analyzer_rules())
            .with_optimizer_rules(planner::logical_rules())
            .with_physical_optimizer_rules(planner::physical_rules())
            .with_config(config)
            .with_runtime_env(runtime)
            .with_expr_planners(vec![Arc::new(planner::TypedOperators)])
            .with_default_features()
            .build();
        state.register_relation_planner(Arc::new(planner::FriendlyJoins))?;
        state.register_relation_planner(Arc::new(planner::TimeWindows))?;
        let paths = Arc::new(PathTables::default());
        source::register_formats(&mut state, paths.rejects())?;
        function::register(&mut state)?;
        let tables = Arc::clone(&paths) as Arc<dyn UrlTableFactory>;
        let catalogs = Arc::new(DynamicFileCatalog::new(Arc::clone(state.catalog_list()), tables));
        state.register_catalog_list(catalogs);
        let context = SessionContext::new_with_state(state);
        let state = context.state_weak_ref();
        paths.attach(move || state.upgrade().map(|state| state.read().clone()));
        let (continuous, sinks, views) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (macros, current) = (Macros::default(), Current::default());
        Ok(Self {
            context,
            paths,
            stores,
            writes,
            continuous,
            sinks,
            views,
            remembered,
            worked: Mutex::default(),
            macros,
            current,
            _spill: spill,
        })
    }

    /// The current settings.
    pub fn settings(&self) -> Settings {
        config::settings(self.context.state().config().options())
    }

    /// Looks at what runs here, from any thread.
    pub fn watch(&self) -> Watch {
        Watch { context: self.context.clone(), current: self.current.clone(), writes: self.writes.clone() }
    }

    /// What the statements since the last call have to say of the rows that they read: a sentence a file.
    pub fn take_notes(&self) -> Vec<String> {
        self.paths.rejects().take_notes()
    }

    /// How the text files were read that statements since the last call named.
    pub fn take_readings(&self) -> Vec<String> {
        self.paths.rejects().take_readings()
    }

    /// DataFusion's context beneath.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Parses and runs a text of statements; gives the outcome of the last one.
    pub async fn execute_text(&self, text: &str) -> Result<Outcome> {
        let script = Script { name: "-c".to_owned(), text: text.to_owned() };
        let mut outcome = Outcome::Done;
        let dialect = self.context.state().config().options().sql_parser.dialect.to_string();
        let reading = Reading { dialect: Some(dialect), ..Reading::default() };
        for statement in parser::parse(&script, &reading)? {
            outcome = self.execute(statement).await?;
        }
        Ok(outcome)
    }

    /// Runs one statement. Rows are computed as they are taken; all else is done on return.
    pub async fn execute(&self, statement: Statement) -> Result<Outcome> {
        let outcome = AssertUnwindSafe(self.try_execute(statement)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|panic| Err(Error::from_panic(panic.as_ref())));
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                let error = self.writes.failure().unwrap_or(error);
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Removes what an unfinished statement has staged.
    pub async fn abort(&self) {
        self.writes.abort().await;
    }

    async fn try_execute(&self, statement: Statement) -> Result<Outcome> {
        let mut body = statement.body;
        if let Some(query) = list_settings(&body) {
            body = query?;
        }
        if let Some(definition) = planner::definition(&body) {
            self.define(definition, true).await?;
            return Ok(Outcome::Done);
        }
        if let Some(chart) = planner::chart_copy(&body)? {
            return self.copy_chart(chart).await;
        }
        let incremental = statement.incremental;
        let materialized = pipeline::unmaterialize(&mut body);
        let target = planner::prepare(&mut body)?;
        let plan = self.plan(body, true).await?;
        if let LogicalPlan::Ddl(DdlStatement::CreateView(view)) = &plan
            && materialized
            && self.maintain(view, statement.emits_final)?
        {
            return Ok(Outcome::Done);
        }
        if incremental {
            return self.explain_incremental(plan, target, statement.emits_final).await;
        }
        if let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) = &plan
            && let Some(target) = &target
        {
            self.remember_sink(&table.name.to_string(), target)?;
        }
        if pipeline::is_continuous(&plan)? {
            return self.defer(plan, target, statement.emits_final);
        }
        if let LogicalPlan::Statement(change @ (PlanStatement::SetVariable(_) | PlanStatement::ResetVariable(_))) = plan
        {
            return self.change_setting(change).await;
        }
        if !is_write(&plan)? {
            return self.run_plan(plan).await;
        }
        let mode = self.settings().copy_mode.parse()?;
        let folder = target.as_ref().map(|target| target.new_folder(mode)).transpose()?.flatten();
        let plan = keys::check_insert(&self.context.state(), plan).await?;
        let name = target.map_or_else(|| write_name(&plan), |target| target.text);
        self.run_write(plan, name, folder.as_deref()).await
    }

    /// Plans one statement and, where later ones need it, does what it does to the catalog; runs nothing.
    pub async fn check(&self, statement: Statement) -> Result<()> {
        let mut body = statement.body;
        if let Some(query) = list_settings(&body) {
            body = query?;
        }
        if let Some(definition) = planner::definition(&body) {
            return self.define(definition, false).await;
        }
        if let Some(chart) = planner::chart_copy(&body)? {
            body = chart.query;
        }
        let materialized = pipeline::unmaterialize(&mut body);
        let target = planner::prepare(&mut body)?;
        let plan = self.plan(body, false).await?;
        if let LogicalPlan::Ddl(DdlStatement::CreateView(view)) = &plan
            && materialized
            && self.maintain(view, statement.emits_final)?
        {
            return Ok(());
        }
        if pipeline::is_continuous(&plan)? {
            self.defer(plan, target, statement.emits_final)?;
            return Ok(());
        }
        match plan {
            LogicalPlan::Copy(copy) => {
                self.try_physical(LogicalPlan::clone(&copy.input)).await?;
                let schema = Arc::clone(copy.input.schema().inner());
                if let Some(target) = target {
                    self.paths.plan_file(&target.text, schema);
                }
            }
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) => {
                let schema = Arc::clone(table.input.schema().inner());
                self.try_physical(LogicalPlan::clone(&table.input)).await?;
                let empty = MemTable::try_new(schema, vec![vec![]])?;
                self.context.register_table(table.name, Arc::new(empty))?;
            }
            LogicalPlan::Ddl(_) => {
                self.context.execute_logical_plan(plan).await?;
            }
            LogicalPlan::Statement(change @ (PlanStatement::SetVariable(_) | PlanStatement::ResetVariable(_))) => {
                self.change_setting(change).await?;
            }
            LogicalPlan::Statement(_) => {
                self.context.execute_logical_plan(plan).await?;
            }
            plan => {
                self.try_physical(plan).await?;
            }
        }
        Ok(())
    }

    /// Runs a statement that others need, such as CREATE and SET, and takes those over growing tables into the pipeline.
    /// What only gives rows or writes files is planned, and left out.
    pub async fn set_up(&self, statement: Statement) -> Result<()> {
        let mut body = statement.body.clone();
        if list_settings(&body).is_some() || statement.incremental || planner::chart_copy(&body)?.is_some() {
            return Ok(());
        }
        if planner::definition(&body).is_none() {
            pipeline::unmaterialize(&mut body);
            planner::prepare(&mut body)?;
            let plan = self.plan(body, true).await?;
            let needed = pipeline::is_continuous(&plan)?
                || matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_))
                || pipeline::fills_memory(&plan)?;
            if !needed {
                return Ok(());
            }
        }
        self.execute(statement).await.map(drop)
    }

    /// `run`: what the plan depends on may be read from the tables.
    async fn plan(&self, body: Body, run: bool) -> Result<LogicalPlan> {
        let state = self.context.state();
        let asked = |plan: LogicalPlan, constant: bool| -> BoxFuture<'_, Result<Vec<RecordBatch>>> {
            let state = state.clone();
            Box::pin(async move {
                if !run && !constant {
                    return Ok(Vec::new());
                }
                if pipeline::is_continuous(&plan)? {
                    return Err(Error::sql("PIVOT without IN, and LIMIT of a percentage, need to know all rows beforehand, which a stream does not have")
                        .mark("PIVOT|LIMIT")
                        .hint("name the values: PIVOT … ON column IN ('a', 'b'); LIMIT takes a number of rows"));
                }
                Rows::start(state, plan, &Current::default()).await?.collect().await
            })
        };
        let plan = planner::plan(&state, &self.macros, body, &asked).await;
        let plan = plan.map_err(|error| explain_unknown_name(&state, error))?;
        if !matches!(plan, LogicalPlan::Statement(_)) {
            refuse_placeholders(&plan)?;
        }
        sink::check(&state, &plan)?;
        Ok(plan)
    }

    /// CREATE MACRO, DROP MACRO and SET VARIABLE, whose value is computed now if `run` says so.
    async fn define(&self, definition: planner::Definition, run: bool) -> Result<()> {
        let planner::Definition::Variable(name, value) = definition else { return self.macros.define(definition) };
        let value = if run {
            let plan = self.plan(planner::query_of_value(value), true).await?;
            let (state, plan) = self.resolve(plan).await?;
            planner::value_of(&Rows::start(state, plan, &Current::default()).await?.collect().await?)?
        } else {
            value
        };
        self.macros.define(planner::Definition::Variable(name, value))
    }

    /// The state and the plan, after what a plan does to the session at once (EXECUTE of a prepared one).
    async fn resolve(&self, plan: LogicalPlan) -> Result<(SessionState, LogicalPlan)> {
        if let LogicalPlan::Statement(PlanStatement::Execute(call)) = &plan
            && !call.parameters.is_empty()
        {
            // DataFusion counts the values only where there are parameters.
            let bare = Execute { parameters: Vec::new(), ..call.clone() };
            if self.context.execute_logical_plan(LogicalPlan::Statement(PlanStatement::Execute(bare))).await.is_ok() {
                let given = call.parameters.len();
                return Err(Error::sql(format!("values given to {}: {given}, and it has parameters: 0", call.name))
                    .mark("EXECUTE")
                    .hint(format!("EXECUTE {}", call.name)));
            }
        }
        Ok(self.context.execute_logical_plan(plan).await?.into_parts())
    }

    async fn run_plan(&self, plan: LogicalPlan) -> Result<Outcome> {
        if let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) = &plan {
            return self.create_table(table.clone()).await;
        }
        if let LogicalPlan::Ddl(_) | LogicalPlan::Statement(PlanStatement::Prepare(_) | PlanStatement::Deallocate(_)) =
            plan
        {
            self.context.execute_logical_plan(plan).await?;
            return Ok(Outcome::Done);
        }
        let (state, plan) = self.resolve(plan).await?;
        Ok(Outcome::Rows(Rows::start(state, plan, &self.current).await?))
    }

    /// CREATE TABLE … AS: the query runs like any other, and the table is made of its rows.
    async fn create_table(&self, mut table: CreateMemoryTable) -> Result<Outcome> {
        if !matches!(table.input.as_ref(), LogicalPlan::EmptyRelation(_)) {
            let (state, input) = self.resolve(LogicalPlan::clone(&table.input)).await?;
            let rows = Rows::start(state, input, &self.current).await?;
            let (schema, batches) = (rows.schema(), rows.collect().await?);
            let rows: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(schema, vec![batches])?);
            keys::check(&self.context.state(), table.name.table(), None, &rows, &table.constraints).await?;
            table.input = LogicalPlanBuilder::scan("rows", provider_as_source(rows), None)?.build()?.into();
        }
        self.context.execute_logical_plan(LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table))).await?;
        Ok(Outcome::Done)
    }

    /// Runs a COPY, an INSERT, or an EXPLAIN ANALYZE of one to its end, then shows what it wrote.
    async fn run_write(&self, plan: LogicalPlan, target: String, folder: Option<&Path>) -> Result<Outcome> {
        let explained = matches!(plan, LogicalPlan::Analyze(_));
        let (state, plan) = self.resolve(plan).await?;
        let (batches, analyzed) = match self.stage(&state, &plan, folder).await {
            Err(error) if error.join_exceeds_memory => {
                self.abort().await;
                self.stage(&with_sorted_joins(&state), &plan, folder).await?
            }
            staged => staged?,
        };
        self.writes.commit().await?;
        if explained {
            let schema = Arc::clone(plan.schema().inner());
            let table = self.context.read_batches(batches)?.into_parts();
            let rows = Rows::start_once(&table.0, &table.1, &self.current).await?;
            return Ok(Outcome::Rows(rows.with_schema(schema).with_analyzed(analyzed)));
        }
        let count = |batch: &RecordBatch| -> u64 {
            let column = batch.column(0).as_any().downcast_ref::<UInt64Array>();
            column.map_or(0, |counts| counts.iter().flatten().sum())
        };
        Ok(Outcome::Written { rows: batches.iter().map(count).sum(), target })
    }

    /// Runs a plan that writes; what it writes is staged.
    async fn stage(&self, state: &SessionState, plan: &LogicalPlan, folder: Option<&Path>) -> Result<Staged> {
        if let Some(folder) = folder {
            self.writes.begin_folder(folder)?;
        }
        let mut rows = Rows::start_once(state, plan, &self.current).await?;
        Ok((rows.drain().await?, rows.analyzed()))
    }

    /// Plans for the machine, and forgets it: `fuse check` wants the errors.
    async fn try_physical(&self, plan: LogicalPlan) -> Result<()> {
        let (state, plan) = self.resolve(plan).await?;
        let physical = state.create_physical_plan(&plan).await;
        physical.map(drop).map_err(|error| explain_unknown_name(&state, Error::from(error)))
    }

    async fn change_setting(&self, change: PlanStatement) -> Result<Outcome> {
        let (name, value) = match change {
            PlanStatement::SetVariable(set) => (set.variable.to_lowercase(), Some(set.value)),
            PlanStatement::ResetVariable(reset) => (reset.variable.to_lowercase(), None),
            _ => return Ok(Outcome::Done),
        };
        if name.starts_with("fuse.define.") {
            // The parser has put it in place.
            return Ok(Outcome::Done);
        }
        let value = value.or_else(|| config::default_value(&name));
        if let Some(value) = value {
            validate(&name, &value)?;
            let unread = |error: Error| {
                let why = match error.message.as_str() {
                    "invalid digit found in string" => "it is a whole number",
                    "provided string was not `true` or `false`" => "it is true or false",
                    why => why,
                };
                Error { message: format!("{name} = '{value}': {why}"), ..error }
            };
            let set = self.set(&name, value.clone()).await;
            set.map_err(|error| explain_setting(&name, self.context.state().config_options(), unread(error)))?;
        } else {
            let reset = datafusion::logical_expr::ResetVariable { variable: name.clone() };
            let plan = LogicalPlan::Statement(PlanStatement::ResetVariable(reset));
            let reset = self.context.execute_logical_plan(plan).await;
            reset.map_err(|e| explain_setting(&name, self.context.state().config_options(), Error::from(e)))?;
        }
        let settings = self.settings();
        match name.as_str() {
            "fuse.threads" => {
                self.set("datafusion.execution.target_partitions", threads(&settings).to_string()).await?;
            }
            "fuse.memory_limit" => {
                let bytes = memory_limit(&settings)?;
                self.set("datafusion.runtime.memory_limit", format!("{}K", bytes.div_ceil(1024))).await?;
                let threads = self.context.state().config().target_partitions();
                let reservation = config::sort_reservation(bytes, threads).to_string();
                self.set("datafusion.execution.sort_spill_reservation_bytes", reservation).await?;
            }
            "fuse.temp_dir" => {
                let folder = match settings.temp_dir.as_str() {
                    "" => std::env::temp_dir().display().to_string(),
                    folder => folder.to_owned(),
                };
                self.set("datafusion.runtime.temp_directory", folder).await?;
            }
            _ => {}
        }
        Ok(Outcome::Done)
    }

    async fn set(&self, variable: &str, value: String) -> Result<()> {
        let set = datafusion::logical_expr::SetVariable { variable: variable.to_owned(), value };
        let plan = LogicalPlan::Statement(PlanStatement::SetVariable(set));
        self.context.execute_logical_plan(plan).await?;
        Ok(())
    }
}

/// Outside of PREPARE, every `$name` needs a value.
fn refuse_placeholders(plan: &LogicalPlan) -> Result<()> {
    match plan.get_parameter_names()?.into_iter().min() {
        Some(name) => Err(Error::sql(format!("no value for {name}")).mark(&name).hint(match name.strip_prefix('$') {
            Some(name) => format!("give one on the command line: -D {name}=…"),
            None => "values are put in by name: $name, and -D name=… on the command line".to_owned(),
        })),
        None => Ok(()),
    }
}

/// True for a plan that writes when it runs.
fn is_write(plan: &LogicalPlan) -> Result<bool> {
    let runs = !matches!(plan, LogicalPlan::Explain(_));
    Ok(runs && plan.exists(|node| Ok(matches!(node, LogicalPlan::Copy(_) | LogicalPlan::Dml(_))))?)
}

fn write_name(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::Dml(dml) => dml.table_name.table().to_owned(),
        _ => String::new(),
    }
}
