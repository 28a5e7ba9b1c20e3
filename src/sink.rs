//! What DataFusion's sinks write, as their formats and folders can carry it.
//!
//! Enters: the plan of a COPY or an INSERT. Leaves: the same plan, with columns beneath its sink that the
//! format carries ([`crate::format::carry`]) and with the text of the folder for each column of PARTITIONED BY.
//! Always holds: NULL gets the folder of NULL, which no value has; what cannot be written is refused before
//! anything is written.

mod lines;
pub mod stream;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::parquet::{ParquetFormat, ParquetSink};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::physical_plan::{FileSink, FileSinkConfig};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::{CopyTo, InsertOp};
use datafusion::logical_expr::{
    ColumnarValue, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use self::lines::JsonLines;
use crate::config::NULL_FOLDER;
use crate::durable::ESCAPED_EQUALS;
use crate::error::{Error, Result};
use crate::folder::listing_of;
use crate::format::{Carrier, carry, is_nested, refuse_same_names, texts};

/// Refuses what cannot be written, before a plan runs.
pub fn check(state: &SessionState, plan: &LogicalPlan) -> Result<()> {
    let Some(write) = write_of(state, plan) else { return Ok(()) };
    if let LogicalPlan::Copy(copy) = write.plan {
        let schema = copy.input.schema().inner();
        refuse_same_names(schema)?;
        let all = schema.fields().iter().all(|field| write.partitions.contains(field.name()));
        if all && !write.partitions.is_empty() && !write.keeps_partitions {
            return Err(Error::sql("PARTITIONED BY names every column: the files would have no column")
                .mark("PARTITIONED BY")
                .hint("leave out one column, or add one to the SELECT"));
        }
    }
    if let LogicalPlan::Dml(dml) = write.plan
        && write.one_file
    {
        return Err(Error::sql(format!("{} is one file: INSERT adds files to a folder", dml.table_name.table()))
            .mark(format!("'{0}'|{0}", dml.table_name.table()))
            .hint("put the table's LOCATION on a folder, as in 'data/', or write a new file with COPY … TO"));
    }
    let input = write.plan.inputs();
    for field in input.iter().flat_map(|input| input.schema().fields()) {
        let partition = write.partitions.contains(field.name());
        if partition && is_nested(field.data_type()) {
            let name = field.name();
            return Err(Error::sql(format!("PARTITIONED BY {name}: {} has no folder name", field.data_type()))
                .hint("partition by a number, a date or a short text"));
        }
        if let Some(carrier) = write.carrier
            && !partition
        {
            carrier.field(field)?;
        }
    }
    Ok(())
}

/// A statement that writes files.
struct Write<'a> {
    /// The COPY or the INSERT itself.
    plan: &'a LogicalPlan,
    carrier: Option<Carrier>,
    partitions: Vec<String>,
    /// The files have the columns of PARTITIONED BY too.
    keeps_partitions: bool,
    /// The table of an INSERT is a file and no folder.
    one_file: bool,
}

fn write_of<'a>(state: &SessionState, plan: &'a LogicalPlan) -> Option<Write<'a>> {
    let keeps_partitions = state.config_options().execution.keep_partition_by_columns;
    match plan {
        LogicalPlan::Analyze(analyze) => write_of(state, &analyze.input),
        LogicalPlan::Explain(explain) => write_of(state, &explain.plan),
        LogicalPlan::Copy(copy) => {
            let carrier = Carrier::of_ending(&copy.file_type.get_ext());
            let option = copy.options.get("execution.keep_partition_by_columns");
            let keeps_partitions = option.map_or(keeps_partitions, |value| value.trim() == "true");
            Some(Write { plan, carrier, partitions: copy.partition_by.clone(), keeps_partitions, one_file: false })
        }
        LogicalPlan::Dml(dml) => {
            let table = source_as_provider(&dml.target).ok()?;
            let table = listing_of(table.as_ref())?;
            let options = table.options();
            let one_file = table.table_paths().iter().any(|path| !path.is_collection());
            let carrier = Carrier::of_ending(&options.format.get_ext());
            let partitions = options.table_partition_cols.iter().map(|(name, _)| name.clone()).collect();
            Some(Write { plan, carrier, partitions, keeps_partitions, one_file })
        }
        _ => None,
    }
}

/// Puts beneath the sink of `physical`, which is the plan of `logical`, what makes its columns fit.
pub async fn adapt(
    state: &SessionState,
    logical: &LogicalPlan,
    physical: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(write) = write_of(state, logical) else { return Ok(physical) };
    let mut found: Option<Arc<dyn ExecutionPlan>> = None;
    physical.apply(|node| {
        let sink = node.downcast_ref::<DataSinkExec>().is_some();
        found = sink.then(|| Arc::clone(node));
        Ok(if sink { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    let Some(old) = found else { return Ok(physical) };
    let Some(new) = write.adapted(state, &old).await? else { return Ok(physical) };
    let exchanged = physical.transform_down(|node| {
        Ok(if Arc::ptr_eq(&node, &old) {
            Transformed::new(Arc::clone(&new), true, TreeNodeRecursion::Stop)
        } else {
            Transformed::no(node)
        })
    })?;
    Ok(exchanged.data)
}

impl Write<'_> {
    /// The sink over columns that fit; nothing if they fit already.
    async fn adapted(
        &self,
        state: &SessionState,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(exec) = plan.downcast_ref::<DataSinkExec>() else { return Ok(None) };
        let columns = exec.input().schema();
        let mut expressions = Vec::with_capacity(columns.fields().len());
        let mut fits = true;
        for (at, field) in columns.fields().iter().enumerate() {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
            let expr = match self.change(field)? {
                Some(change) => {
                    fits = false;
                    change.of(column, state)
                }
                None => column,
            };
            expressions.push(ProjectionExpr { expr, alias: field.name().clone() });
        }
        let json = exec.sink().downcast_ref::<JsonSink>();
        if fits && json.is_none() {
            return Ok(None);
        }
        let input: Arc<dyn ExecutionPlan> = if fits {
            Arc::clone(exec.input())
        } else {
            Arc::new(ProjectionExec::try_new(expressions, Arc::clone(exec.input()))?)
        };
        let order = exec.sort_order().clone();
        if let Some(json) = json {
            return Ok(Some(Arc::new(DataSinkExec::new(input, Arc::new(JsonLines::new(json)), order))));
        }
        if let Some(parquet) = exec.sink().downcast_ref::<ParquetSink>() {
            let config = self.config(parquet.config().clone())?;
            let format = ParquetFormat::default().with_options(parquet.parquet_options().clone());
            return Ok(Some(format.create_writer_physical_plan(input, state, config, order).await?));
        }
        if let (Some(Carrier::Arrow), LogicalPlan::Copy(copy)) = (self.carrier, self.plan) {
            let config = self.config(self.arrow_config(copy)?)?;
            return Ok(Some(ArrowFormat.create_writer_physical_plan(input, state, config, order).await?));
        }
        // The others take the columns that come.
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Ok(Some(Arc::clone(plan).replace_children(vec![input], options)?))
    }

    fn change(&self, field: &FieldRef) -> Result<Option<Change>> {
        if self.partitions.contains(field.name()) {
            return Ok(Some(if self.keeps_partitions {
                Change { to: Arc::clone(field), how: How::NotNull }
            } else {
                Change { to: Arc::new(Field::new(field.name(), DataType::Utf8, false)), how: How::Folder }
            }));
        }
        let Some(carrier) = self.carrier else { return Ok(None) };
        let to = carrier.field(field)?;
        Ok((to != *field).then_some(Change { to, how: How::Carry }))
    }

    /// A sink's configuration with the columns as they are carried.
    fn config(&self, config: FileSinkConfig) -> Result<FileSinkConfig> {
        let schema = Arc::clone(&config.output_schema);
        let output_schema = self.carrier.map_or(Ok(schema), |carrier| carrier.schema(&config.output_schema))?;
        Ok(FileSinkConfig { output_schema, ..config })
    }

    /// What DataFusion's planner gives the sink of an Arrow COPY, which does not show it.
    fn arrow_config(&self, copy: &CopyTo) -> Result<FileSinkConfig> {
        let url = ListingTableUrl::parse(&copy.output_url)?;
        let single = copy.options.get("single_file_output").map(|value| value.trim() == "true");
        Ok(FileSinkConfig {
            original_url: copy.output_url.clone(),
            object_store_url: url.object_store(),
            file_group: Default::default(),
            table_paths: vec![url],
            output_schema: SchemaRef::clone(copy.input.schema().inner()),
            table_partition_cols: self.partitions.iter().map(|name| (name.clone(), DataType::Null)).collect(),
            insert_op: InsertOp::Append,
            keep_partition_by_columns: self.keeps_partitions,
            file_extension: "arrow".to_owned(),
            file_output_mode: single.into(),
        })
    }
}

/// What becomes of a column on its way to the sink: a function that no SQL can call.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Change {
    to: FieldRef,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum How {
    /// The same values in a type that the format has.
    Carry,
    /// The value in the name of a folder.
    Folder,
    /// The same values, none of them NULL: the column is both in the files and in the names of folders.
    NotNull,
}

impl Change {
    fn of(self, column: Arc<dyn PhysicalExpr>, state: &SessionState) -> Arc<dyn PhysicalExpr> {
        let (to, name) = (Arc::clone(&self.to), self.name().to_owned());
        let function = Arc::new(ScalarUDF::new_from_impl(Function {
            change: self,
            signature: Signature::any(1, Volatility::Immutable),
        }));
        let config = Arc::clone(state.config_options());
        Arc::new(ScalarFunctionExpr::new(&name, function, vec![column], to, config))
    }

    fn name(&self) -> &'static str {
        match self.how {
            How::Carry => "carry",
            How::Folder => "folder",
            How::NotNull => "not_null",
        }
    }

    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef> {
        match self.how {
            How::Carry => carry(array, self.to.data_type()),
            How::Folder => self.folders(array),
            How::NotNull if array.logical_null_count() == 0 => Ok(Arc::clone(array)),
            How::NotNull => {
                let name = self.to.name();
                Err(Error::query(format!("PARTITIONED BY {name}: a row has NULL there, which has no folder")).hint(
                    format!("SET datafusion.execution.keep_partition_by_columns = false, or COALESCE({name}, …)"),
                ))
            }
        }
    }

    /// The names of folders. A second `=` in one would be read as a second key.
    fn folders(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let names = texts(array, NULL_FOLDER)?;
        if !names.iter().flatten().any(|name| name.contains(['=', ESCAPED_EQUALS])) {
            return Ok(Arc::new(names));
        }
        let escaped = names.iter().flatten().map(|name| match name.contains(ESCAPED_EQUALS) {
            true => Err(Error::query(format!("PARTITIONED BY {}: a value with the character NUL", self.to.name()))
                .hint("no folder can be named so: replace it, or partition by another column")),
            false => Ok(name.replace('=', &ESCAPED_EQUALS.to_string())),
        });
        Ok(Arc::new(escaped.collect::<Result<Vec<String>>>().map(StringArray::from)?))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    change: Change,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.change.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.change.to.data_type().clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(array) = arrays.first() else {
            return Err(Error::query("a column of the result is missing").into());
        };
        Ok(ColumnarValue::Array(self.change.apply(array)?))
    }
}
