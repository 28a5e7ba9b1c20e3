//! CREATE EXTERNAL TABLE over files.
//!
//! Enters: the statement. Leaves: DataFusion's table over the files, given columns that fuse has found in them, or a
//! table of another kind: a growing one, a topic. Always holds: files of other endings in a folder are none of its.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{ListingTable, ListingTableConfig};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use object_store::{ObjectMeta, ObjectStore};

use super::Location;
use super::file_format::{IGNORE_UNKNOWN, fuse_format};
use super::location::Listed;
use super::look::look_for_stream;
use super::stream::{NetTable, StreamTable};
use super::table::{Found, Wishes, create_format};
use super::topic::TopicTable;
use crate::error::{Error, Result, unknown_format};
use crate::folder::FolderTable;
use crate::format::csv::{Dialect, canonical_option};

/// CREATE EXTERNAL TABLE over files: DataFusion's own factory, given columns that fuse has inferred.
#[derive(Debug, Default)]
pub struct FileTableFactory {
    inner: ListingTableFactory,
}

#[async_trait]
impl TableProviderFactory for FileTableFactory {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> DfResult<Arc<dyn TableProvider>> {
        let Some(session) = state.as_any().downcast_ref::<SessionState>() else {
            return self.inner.create(state, cmd).await;
        };
        if cmd.unbounded {
            return Ok(Arc::new(StreamTable::create(state, cmd, look_for_stream(session, cmd)).await?));
        }
        if let Some(table) = TopicTable::create(cmd)? {
            return Ok(Arc::new(table));
        }
        if cmd.file_type == "RAW" {
            return Err(unknown_format("RAW").note("messages of a topic can be STORED AS RAW").into());
        }
        if let Some(table) = NetTable::at_rest(session, cmd, look_for_stream(session, cmd)).await? {
            return Ok(Arc::new(table));
        }
        let mut cmd = cmd.clone();
        let prepared = prepare(session, &mut cmd).await?;
        if let Some(whole) = prepared.whole {
            return Ok(whole);
        }
        let table = self.inner.create(state, &cmd).await?;
        let table = match prepared.ending {
            Some(ending) if cmd.locations.len() == 1 => of_ending(table, session, &cmd, &ending)?,
            _ => table,
        };
        Ok(match (table.as_ref() as &dyn Any).downcast_ref::<ListingTable>() {
            Some(listing) if !listing.options().table_partition_cols.is_empty() => {
                Arc::new(FolderTable::new(listing.clone(), cmd.schema.as_arrow()))
            }
            _ => table,
        })
    }
}

/// What was found of a table before it is made.
struct Prepared {
    /// The finished table.
    whole: Option<Arc<dyn TableProvider>>,
    /// The ending of its files, where others may stand in a folder that is a URL.
    ending: Option<String>,
}

/// The same table, of the files of that ending alone.
fn of_ending(
    table: Arc<dyn TableProvider>,
    state: &SessionState,
    cmd: &CreateExternalTable,
    ending: &str,
) -> Result<Arc<dyn TableProvider>> {
    let Some(listing) = (table.as_ref() as &dyn Any).downcast_ref::<ListingTable>() else { return Ok(table) };
    let options = listing.options().clone().with_file_extension(ending);
    let partitions = &cmd.table_partition_cols;
    let fields = cmd.schema.fields().iter().filter(|field| !partitions.contains(field.name()));
    let schema = Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()));
    let config = ListingTableConfig::new_with_multi_paths(listing.table_paths().clone());
    let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
    let table = ListingTable::try_new(config.with_listing_options(options).with_schema(schema))?
        .with_cache(cache)
        .with_definition(cmd.definition.clone())
        .with_constraints(cmd.constraints.clone())
        .with_column_defaults(cmd.column_defaults.clone());
    Ok(Arc::new(table))
}

/// Fills in the columns, and the glob that keeps other files out; or gives the finished table.
async fn prepare(state: &SessionState, cmd: &mut CreateExternalTable) -> Result<Prepared> {
    let declared = !cmd.schema.fields().is_empty();
    if cmd.file_type == "JSON" && declared {
        // Who names the columns may leave some out.
        cmd.options.entry(IGNORE_UNKNOWN.to_owned()).or_insert_with(|| "true".to_owned());
    }
    let format = create_format(state, &cmd.file_type, &cmd.options)?;
    let infer_partitions = state.config_options().execution.listing_table_factory_infer_partitions;
    let partitioned = infer_partitions || !cmd.table_partition_cols.is_empty();
    let (mut inferred, mut ending): (Option<SchemaRef>, Option<String>) = (None, None);
    for text in &mut cmd.locations {
        let location = Location::parse(text)?;
        let folder = location.url.is_collection() && location.url.get_glob().is_none();
        let store = state.runtime_env().object_store(&location.url)?;
        let Listed { mut files, seen } = location.files(state).await?;
        if files.is_empty() && !(declared && folder) {
            return Err(location.missing(store.as_ref()).await);
        }
        if folder {
            let suffix = format!(".{}", format.get_ext());
            if files.is_empty() || files.iter().any(|file| file.location.as_ref().ends_with(&suffix)) {
                files.retain(|file| file.location.as_ref().ends_with(&suffix));
                // Of a URL DataFusion would take a glob for a name.
                if location.url.scheme() == "file" {
                    text.push_str(if text.ends_with('/') { "*" } else { "/*" });
                    text.push_str(&suffix);
                } else {
                    ending = Some(suffix);
                }
            }
        }
        if declared {
            if let Some(first) = files.iter().find(|file| file.size > 0) {
                let declared = Arc::clone(cmd.schema.inner());
                sniff_declared(store.as_ref(), first, &format, &declared, &mut cmd.options).await?;
            }
            continue;
        }
        files.retain(|file| file.size > 0);
        if files.is_empty() {
            return Err(Error::query(format!("'{text}' is empty: it has no header and no rows")));
        }
        let wishes = Wishes { unpartitioned: !partitioned, ..Wishes::default() };
        let listed = Listed { files, seen };
        let found = Found::look(state, &store, location, Arc::clone(&format), listed, &wishes).await?;
        if found.united {
            return Ok(Prepared { whole: Some(found.union(state)?), ending: None });
        }
        if let Some(dialect) = found.dialect() {
            add_found(dialect, &mut cmd.options);
        }
        let schema = found.with_partitions(&mut cmd.table_partition_cols);
        if inferred.as_ref().is_some_and(|known| *known != schema) {
            return Err(Error::query(format!("'{text}' has other columns than the locations before it"))
                .hint("make a table of each and unite them: SELECT * FROM a UNION ALL BY NAME SELECT * FROM b"));
        }
        inferred = Some(schema);
    }
    if let Some(schema) = inferred {
        cmd.schema = Arc::new(DFSchema::try_from(schema)?);
    }
    known_columns(cmd)?;
    Ok(Prepared { whole: None, ending })
}

/// Looks how the records of a CSV file are written whose columns are declared.
async fn sniff_declared(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    format: &Arc<dyn FileFormat>,
    declared: &SchemaRef,
    options: &mut HashMap<String, String>,
) -> Result<()> {
    let Some(format) = fuse_format(format.as_ref()).filter(|format| format.csv().is_some()) else { return Ok(()) };
    let found = format.sniff(store, file).await?;
    // Where the columns found are not those declared, the file is not what it seems.
    if found.schema.fields().len() == declared.fields().len() {
        add_found(&found.dialect, options);
    }
    Ok(())
}

/// Adds what was found in a file to what the user has set.
fn add_found(dialect: &Dialect, options: &mut HashMap<String, String>) {
    let set: HashSet<String> =
        options.keys().map(|key| canonical_option(key.strip_prefix("format.").unwrap_or(key)).to_owned()).collect();
    for (name, value) in dialect.found_options() {
        if !set.contains(name) {
            options.insert(format!("format.{name}"), value);
        }
    }
}

/// PARTITIONED BY and WITH ORDER name columns of the table.
fn known_columns(cmd: &CreateExternalTable) -> Result<()> {
    let ordered = cmd.order_exprs.iter().flatten().flat_map(|sort| sort.expr.column_refs()).map(|column| &column.name);
    for name in cmd.table_partition_cols.iter().chain(ordered) {
        if cmd.schema.field_with_unqualified_name(name).is_err() {
            let names: Vec<&str> = cmd.schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::sql(format!("no column named {name}"))
                .note(format!("the columns here are {}", names.join(", "))));
        }
    }
    Ok(())
}
