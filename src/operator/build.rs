//! The operators of a plan's nodes.
//!
//! Enters: a node of an [`IncrementalPlan`], and how many shards there are. Leaves: an operator for each shard, and how
//! their inputs are divided. Always holds: operators of one node are alike.

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Aggregate, Join, SortExpr};
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::{self, Exchange};
use super::{
    Operator, Running, aggregate, asof, closing, exists, join, near, net, physical, random, ranking, recompute,
    running, sessions, stateless, temporal, top, window,
};
use crate::error::{Error, Result};
use crate::planner::{Eviction, IncrementalPlan, Node, NodeId, Op};

/// How an aggregate wants its input divided.
fn group_exchange(aggregate: &Aggregate, state: &SessionState) -> Result<Exchange> {
    let groups = aggregate.group_expr.iter();
    let exprs = groups.map(|expr| physical(expr, aggregate.input.schema(), state));
    let types = aggregate.schema.fields()[..aggregate.group_expr.len()].iter();
    Exchange::by_key(exprs.collect::<Result<_>>()?, types.map(|field| field.data_type().clone()).collect())
}

/// An aggregate in all shards; each sums up the rows that it gets before they are divided, where that can be.
fn aggregates(
    plan: &Aggregate,
    grows: (bool, bool),
    evict: &[Eviction],
    input: NodeId,
    shards: usize,
    state: &SessionState,
) -> Result<Running> {
    let new = |shard, evict| aggregate::Aggregate::new(plan, grows, evict, state, shard);
    let (mut partials, mut operators): (Vec<_>, Vec<Box<dyn Operator>>) = (Vec::new(), Vec::new());
    for shard in 0..shards {
        let partial = aggregate::Partial::new(new(shard, &[])?, partials.first());
        let operator = new(shard, evict)?;
        operators.push(Box::new(match &partial {
            Some(partial) => operator.behind(partial),
            None => operator,
        }));
        partials.extend(partial);
    }
    let exchange = Exchange::by_group(group_exchange(plan, state)?, partials)?;
    Ok(Running { inputs: vec![(input, exchange)], shards: operators })
}

/// How a join wants its inputs divided. One of NOT IN has its right side twice: by key, and counted.
fn join_exchanges(join: &Join, state: &SessionState) -> Result<Vec<Exchange>> {
    let [left, right] = join::key_exprs(join, state)?;
    let types = join::key_types(join)?;
    let mut exchanges = vec![Exchange::by_key(left, types.clone())?, Exchange::by_key(right.clone(), types)?];
    if join.null_aware {
        exchanges.push(Exchange::Tally { exprs: right });
    }
    Ok(exchanges)
}

/// What rows are sorted by.
fn order(
    sort: &[SortExpr],
    input: &DFSchema,
    state: &SessionState,
) -> Result<Vec<(Arc<dyn PhysicalExpr>, SortOptions)>> {
    let one = |by: &SortExpr| {
        let options = SortOptions { descending: !by.asc, nulls_first: by.nulls_first };
        Ok((physical(&by.expr, input, state)?, options))
    };
    sort.iter().map(one).collect()
}

/// The operator of a node that looks at rows in an order, or as time passes, and how its input is divided.
fn in_order(node: &Node, grows: bool, state: &SessionState) -> Result<(Box<dyn Operator>, Vec<Exchange>)> {
    let evict = node.evict.as_slice();
    Ok(match &node.op {
        Op::Window { plan, partition, input } => {
            let window = window::Window::new(plan, partition, input, evict, state)?;
            let exchange = window.exchange()?;
            (Box::new(window), vec![exchange])
        }
        Op::Ranking { window, ranks, limit } => {
            let ranking = ranking::Ranking::new(window, (ranks, *limit), (grows, evict), state)?;
            let exchange = ranking.exchange()?;
            (Box::new(ranking), vec![exchange])
        }
        Op::Near { window, reach, plan } => {
            let near = near::Near::new(window, *reach, plan, evict, state)?;
            let exchange = near.exchange()?;
            (Box::new(near), vec![exchange])
        }
        Op::Running { window, runs } => {
            let running = running::RunningRows::new(window, runs, evict, state)?;
            let exchange = running.exchange()?;
            (Box::new(running), vec![exchange])
        }
        Op::Sessions { sessions } => {
            let sessions = sessions::Sessions::new(sessions, evict, state)?;
            let exchange = sessions.exchange()?;
            (Box::new(sessions), vec![exchange])
        }
        Op::AsOf { asof } => {
            let asof = asof::AsOf::new(asof, evict, state)?;
            let exchanges = asof.exchanges()?;
            (Box::new(asof), exchanges)
        }
        Op::Final { input, .. } => {
            (Box::new(closing::Closing::new(input, evict, state)?), vec![Exchange::by_row(&node.schema)?])
        }
        Op::Temporal { bounds } => {
            let temporal = temporal::Temporal::new(bounds, Arc::clone(&node.schema), state)?;
            (Box::new(temporal), vec![Exchange::by_row(&node.schema)?])
        }
        _ => return Err(Error::query("an operator that looks at no order")),
    })
}

/// The operators of a node; nothing for one that only hands on what comes from outside.
pub(super) fn operators(
    plan: &IncrementalPlan,
    node: &Node,
    shards: usize,
    state: &SessionState,
) -> Result<Option<Running>> {
    let append_only = |at: usize| plan.nodes[node.inputs[at]].append_only;
    let evict = node.evict.as_slice();
    if let Op::Aggregate { aggregate } = &node.op {
        let grows = (append_only(0), node.append_only);
        return Ok(Some(aggregates(aggregate, grows, evict, node.inputs[0], shards, state)?));
    }
    let mut operators: Vec<Box<dyn Operator>> = Vec::new();
    let mut exchanges: Vec<Exchange> = node.inputs.iter().map(|_| Exchange::None).collect();
    for shard in 0..shards {
        let operator: Box<dyn Operator> = match &node.op {
            Op::Scan { .. } | Op::Static { .. } => return Ok(None),
            Op::Net { source, key, on_missing } => {
                exchanges = vec![net::Net::exchange(&node.schema, key)?];
                Box::new(net::Net::new(&plan.sources[*source].name, &node.schema, key, *on_missing)?)
            }
            Op::Stateless { steps } => Box::new(stateless::Stateless::new(steps, state)?),
            Op::Union => Box::new(stateless::Union::new(&node.schema, node.append_only)),
            Op::Linear { plan } => Box::new(stateless::Linear { plan: plan.as_ref().clone() }),
            Op::Join { join, left_rests, right_rests } => {
                let rests = [*left_rests, *right_rests];
                let grow = [append_only(0), append_only(1)];
                exchanges = join_exchanges(join, state)?;
                if exists::suits(join) {
                    Box::new(exists::Exists::new(join, rests, grow, (node.append_only, evict), state)?)
                } else {
                    Box::new(join::Join::new(join, rests, grow, (node.append_only, evict), state)?)
                }
            }
            Op::Random { calls, place } => {
                exchanges = vec![Exchange::by_row(&plan.nodes[node.inputs[0]].schema)?];
                Box::new(random::Random::new(calls, *place, Arc::clone(&node.schema))?)
            }
            Op::Top { .. } | Op::First { .. } | Op::Recompute { .. } if shard > 0 => Box::new(exchange::Idle),
            Op::Top { sort, input, skip, fetch } => {
                exchanges = vec![Exchange::One];
                let (by, schema) = (order(sort, input, state)?, Arc::clone(&node.schema));
                match fetch {
                    Some(fetch) => Box::new(top::Top::new(by, (*skip, *fetch), schema, append_only(0))?),
                    None => Box::new(top::Rest::new(by, *skip, schema, append_only(0))?),
                }
            }
            Op::First { skip, fetch } => {
                exchanges = vec![Exchange::One];
                Box::new(top::First::new((*skip, fetch.unwrap_or(usize::MAX)), &node.schema)?)
            }
            Op::Recompute { plan: logical, .. } => {
                exchanges = node.inputs.iter().map(|_| Exchange::One).collect();
                let inputs = node.inputs.iter().map(|input| &plan.nodes[*input]);
                let inputs = inputs.map(|input| (Arc::clone(&input.schema), input.append_only));
                Box::new(recompute::Recompute::new(logical, inputs.collect())?)
            }
            _ => {
                let (operator, by) = in_order(node, append_only(0), state)?;
                exchanges = by;
                operator
            }
        };
        operators.push(operator);
    }
    let inputs = node.inputs.iter().copied().zip(exchanges).collect();
    Ok(Some(Running { inputs, shards: operators }))
}
