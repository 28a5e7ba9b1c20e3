//! Created tables over folders whose names are keys.
//!
//! Enters: DataFusion's table over `k=1/…` folders. Leaves: the same, in which the folder of NULL is NULL. Always
//! holds: what was inserted comes back as it was; without a folder of NULL, DataFusion's own scan runs.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraints, DFSchema, Result as DfResult, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::helpers::{
    expr_applicable_for_cols, filter_partitioned_file, parse_partitions_for_path,
};
use datafusion::datasource::listing::{ListingTable, ListingTableUrl, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileOutputMode, FileScanConfigBuilder, FileSinkConfig};
use datafusion::datasource::table_schema::TableSchemaBuilder;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use object_store::ObjectMeta;

use crate::config::NULL_FOLDER;
use crate::error::Result;

/// A table over partition folders.
#[derive(Debug)]
pub struct FolderTable {
    listing: ListingTable,
    schema: SchemaRef,
}

/// DataFusion's table over files that a created table is, or is made of.
pub fn listing_of(table: &dyn TableProvider) -> Option<&ListingTable> {
    let table: &dyn Any = table;
    table.downcast_ref().or_else(|| table.downcast_ref::<FolderTable>().map(|folder| &folder.listing))
}

impl FolderTable {
    /// The table, whose partition columns may be NULL unless they are declared otherwise.
    pub fn new(listing: ListingTable, declared: &Schema) -> Self {
        let keys = &listing.options().table_partition_cols;
        let field = |field: &Arc<Field>| {
            let key = keys.iter().any(|(name, _)| name == field.name());
            let nullable = declared.field_with_name(field.name()).map_or(true, Field::is_nullable);
            if key { Arc::new(field.as_ref().clone().with_nullable(nullable)) } else { Arc::clone(field) }
        };
        let schema = listing.schema();
        let fields: Vec<Arc<Field>> = schema.fields().iter().map(field).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        Self { listing, schema }
    }

    fn keys(&self) -> &[(String, DataType)] {
        &self.listing.options().table_partition_cols
    }

    /// All files with what their folders say, if one of them is in a folder of NULL.
    async fn files_with_null(&self, state: &dyn Session) -> Result<Option<Vec<PartitionedFile>>> {
        let mut files = Vec::new();
        let mut null = false;
        let extension = &self.listing.options().file_extension;
        for path in self.listing.table_paths() {
            let store = state.runtime_env().object_store(path)?;
            let listed = path.list_all_files(state, store.as_ref(), extension).await?;
            let listed: Vec<ObjectMeta> = listed.try_collect().await?;
            for file in listed.into_iter().filter(|file| file.size > 0) {
                let Some(values) = self.values(path, &file)? else { continue };
                null |= values.iter().any(ScalarValue::is_null);
                files.push(PartitionedFile::from(file).with_partition_values(values));
            }
        }
        Ok(null.then_some(files))
    }

    /// What the folders of a file say; nothing if they are not those of the table.
    fn values(&self, path: &ListingTableUrl, file: &ObjectMeta) -> Result<Option<Vec<ScalarValue>>> {
        let names = self.keys().iter().map(|(name, _)| name.as_str());
        let Some(texts) = parse_partitions_for_path(path, &file.location, names) else { return Ok(None) };
        let values = texts.iter().zip(self.keys()).map(|(text, (_, kind))| {
            Ok(match text.as_ref() {
                NULL_FOLDER => ScalarValue::try_from(kind)?,
                text => ScalarValue::try_from_string(text.to_owned(), kind)?,
            })
        });
        Ok(Some(values.collect::<Result<Vec<_>>>()?))
    }

    /// The files that can hold rows that a query asks for.
    fn wanted(&self, files: Vec<PartitionedFile>, filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        let names: Vec<&str> = self.keys().iter().map(|(name, _)| name.as_str()).collect();
        let filters: Vec<Expr> =
            filters.iter().filter(|filter| expr_applicable_for_cols(&names, filter)).cloned().collect();
        let fields = self.keys().iter().map(|(name, kind)| Field::new(name, kind.clone(), true));
        let schema = DFSchema::from_unqualified_fields(fields.collect(), Default::default())?;
        let mut wanted = Vec::new();
        for file in files {
            wanted.extend(filter_partitioned_file(file, &filters, &schema)?);
        }
        Ok(wanted)
    }
}

#[async_trait]
impl TableProvider for FolderTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.listing.constraints()
    }

    fn table_type(&self) -> TableType {
        self.listing.table_type()
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.listing.get_table_definition()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.listing.get_column_default(column)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let Some(files) = self.files_with_null(state).await? else {
            return self.listing.scan(state, projection, filters, limit).await;
        };
        let files = FileGroup::new(self.wanted(files, filters)?);
        let keys = self.keys().iter().map(|(name, _)| self.schema.field_with_name(name).cloned().map(Arc::new));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let columns = self.schema.fields().len() - keys.len();
        let schema = Arc::new(self.schema.project(&(0..columns).collect::<Vec<_>>())?);
        let keys: Fields = keys.into();
        let schema = TableSchemaBuilder::from(&schema).with_table_partition_cols(keys).build();
        let Some(path) = self.listing.table_paths().first() else {
            return self.listing.scan(state, projection, filters, limit).await;
        };
        let format = &self.listing.options().format;
        let config = FileScanConfigBuilder::new(path.object_store(), format.file_source(schema))
            .with_file_groups(files.split_files(state.config_options().execution.target_partitions))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit.filter(|_| filters.is_empty()))
            .build();
        format.create_physical_plan(state, config).await
    }

    /// Filters are run behind the scan: a file in the folder of NULL is only looked for when it runs.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        insert_op: InsertOp,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let options = self.listing.options();
        let Some(path) = self.listing.table_paths().first().filter(|path| path.is_collection()) else {
            return self.listing.insert_into(state, input, insert_op).await;
        };
        if !options.file_sort_order.is_empty() {
            return self.listing.insert_into(state, input, insert_op).await;
        }
        // The files that are there, which DataFusion would list, do not matter.
        let config = FileSinkConfig {
            original_url: String::new(),
            object_store_url: path.object_store(),
            table_paths: self.listing.table_paths().clone(),
            file_group: FileGroup::default(),
            output_schema: self.schema(),
            table_partition_cols: options.table_partition_cols.clone(),
            insert_op,
            keep_partition_by_columns: state.config_options().execution.keep_partition_by_columns,
            file_extension: options.format.get_ext(),
            file_output_mode: FileOutputMode::Automatic,
        };
        options.format.create_writer_physical_plan(input, state, config, None).await
    }
}
