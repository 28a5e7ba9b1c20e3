//! GROUPING SETS, ROLLUP and CUBE → aggregates of one set each.
//!
//! Enters: an aggregate over several sets of keys. Leaves: its rows once for each set, with NULL in the keys that the
//! set does not have and the number of the set, under one aggregate; the set without keys is an aggregate of its own,
//! since it has a row also where there are none. Always holds: columns and numbers of sets are those that DataFusion
//! gives them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ScalarValue, TableReference};
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, cast, lit};

use super::differentiate::Builder;
use super::incremental::{NodeId, Op, Step};
use super::placeholder::Placeholder;
use crate::error::Result;

/// One set: which keys it does not have, and its number.
struct Set {
    absent: Vec<bool>,
    id: u64,
}

/// The keys of all sets, and the sets.
fn sets(grouping: &GroupingSet) -> (Vec<Expr>, Vec<Set>) {
    let mut keys: Vec<Expr> = Vec::new();
    let sets: Vec<Vec<&Expr>> = match grouping {
        GroupingSet::GroupingSets(sets) => sets.iter().map(|set| set.iter().collect()).collect(),
        GroupingSet::Rollup(all) => (0..=all.len()).map(|len| all[..len].iter().collect()).collect(),
        GroupingSet::Cube(all) => {
            let chosen = |bits: u64| all.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1);
            (0..1_u64 << all.len().min(63)).map(|bits| chosen(bits).map(|(_, expr)| expr).collect()).collect()
        }
    };
    let listed: Vec<&Expr> = match grouping {
        GroupingSet::GroupingSets(sets) => sets.iter().flatten().collect(),
        GroupingSet::Rollup(all) | GroupingSet::Cube(all) => all.iter().collect(),
    };
    for key in listed {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    let mut seen: HashMap<Vec<bool>, u64> = HashMap::new();
    let numbered = sets.into_iter().map(|set| {
        let absent: Vec<bool> = keys.iter().map(|key| !set.contains(&key)).collect();
        let bits = absent.iter().fold(0, |bits, absent| bits << 1 | u64::from(*absent));
        let again = seen.entry(absent.clone()).and_modify(|count| *count += 1).or_insert(0);
        Set { id: bits | *again << keys.len(), absent }
    });
    let numbered = numbered.collect();
    (keys, numbered)
}

/// The node of an aggregate over sets; nothing if it has no function, which a set without keys needs.
pub(super) fn build(
    builder: &mut Builder,
    aggregate: &Aggregate,
    grouping: &GroupingSet,
    schema: SchemaRef,
) -> Result<Option<NodeId>> {
    let (keys, sets) = sets(grouping);
    if aggregate.aggr_expr.is_empty() || keys.len() > 48 {
        return Ok(None);
    }
    let input = builder.node(&aggregate.input)?;
    let id_type = schema.field(keys.len()).data_type().clone();
    let (without, with): (Vec<Set>, Vec<Set>) =
        sets.into_iter().partition(|set| set.absent.iter().all(|absent| *absent));
    let mut parts = Vec::new();
    if !with.is_empty() {
        parts.push(keyed(builder, aggregate, (&keys, &with), input, &schema)?);
    }
    for set in without {
        parts.push(keyless(builder, aggregate, (keys.len(), set.id), input, (&schema, &id_type))?);
    }
    if let [part] = parts[..] {
        return Ok(Some(part));
    }
    Ok(Some(builder.push(Op::Union, parts, schema, false)))
}

/// The sets that have keys.
fn keyed(
    builder: &mut Builder,
    aggregate: &Aggregate,
    (keys, sets): (&[Expr], &[Set]),
    input: NodeId,
    schema: &SchemaRef,
) -> Result<NodeId> {
    let below = aggregate.input.schema();
    let mut fields: Vec<(Option<TableReference>, FieldRef)> =
        below.iter().map(|(table, field)| (table.cloned(), Arc::clone(field))).collect();
    let mut group_expr = Vec::new();
    for (at, field) in schema.fields()[..=keys.len()].iter().enumerate() {
        let name = format!("__set_key_{at}");
        group_expr.push(Expr::Column(Column::from_name(&name)));
        fields.push((None, Arc::new(field.as_ref().clone().with_name(name).with_nullable(true))));
    }
    let spread: DFSchemaRef = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?);
    let append_only = builder.plan.nodes[input].append_only;
    let mut copies = Vec::new();
    for set in sets {
        let mut exprs: Vec<Expr> = below.columns().into_iter().map(Expr::Column).collect();
        for ((key, absent), field) in keys.iter().zip(&set.absent).zip(schema.fields()) {
            exprs.push(if *absent { null(field)? } else { key.clone() });
        }
        exprs.push(cast(lit(set.id), schema.field(keys.len()).data_type().clone()));
        let schema = Arc::clone(spread.inner());
        let step = Step::Project { exprs, input: Arc::clone(below), schema: Arc::clone(&schema) };
        copies.push(builder.push(Op::Stateless { steps: vec![step] }, vec![input], schema, append_only));
    }
    let rows = builder.push(Op::Union, copies, Arc::clone(spread.inner()), append_only);
    let leaf = Arc::new(Placeholder::leaf(0, spread));
    let plan =
        Aggregate::try_new_with_schema(leaf, group_expr, aggregate.aggr_expr.clone(), Arc::clone(&aggregate.schema))?;
    Ok(builder.push(Op::Aggregate { aggregate: Box::new(plan) }, vec![rows], Arc::clone(schema), false))
}

/// The set without keys.
fn keyless(
    builder: &mut Builder,
    aggregate: &Aggregate,
    (keys, id): (usize, u64),
    input: NodeId,
    (schema, id_type): (&SchemaRef, &DataType),
) -> Result<NodeId> {
    let leaf = Arc::new(Placeholder::leaf(0, Arc::clone(aggregate.input.schema())));
    let plan = Aggregate::try_new(leaf, Vec::new(), aggregate.aggr_expr.clone())?;
    let results = Arc::clone(&plan.schema);
    let op = Op::Aggregate { aggregate: Box::new(plan) };
    let whole = builder.push(op, vec![input], Arc::clone(results.inner()), false);
    let mut exprs = schema.fields()[..keys].iter().map(|field| null(field)).collect::<Result<Vec<_>>>()?;
    exprs.push(cast(lit(id), id_type.clone()));
    exprs.extend(results.columns().into_iter().map(Expr::Column));
    let step = Step::Project { exprs, input: results, schema: Arc::clone(schema) };
    Ok(builder.push(Op::Stateless { steps: vec![step] }, vec![whole], Arc::clone(schema), false))
}

fn null(field: &Field) -> Result<Expr> {
    Ok(Expr::Literal(ScalarValue::try_from(field.data_type())?, None))
}
