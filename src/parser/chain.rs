//! Long chains of AND and OR, and of UNION, as balanced trees.
//!
//! Enters: an expression or a query. Leaves: the same, its chains no deeper than the logarithm of
//! their length. Always holds: operands keep their order; three-valued AND and OR are associative,
//! so the value is the same.
//!
//! `a = 1 OR a = 2 OR …` with ten thousand terms, as programs write it, parses into a tree that is
//! ten thousand levels deep, and every recursive pass of a planner over it needs that much stack.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, SetExpr, SetOperator, SetQuantifier, Value, Values};

use crate::config::CHAIN_OPERANDS;

/// Balances the chain that starts at `expr`; returns how many operands it has (0: no long chain).
pub(super) fn balance(expr: &mut Expr) -> usize {
    let op = match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => op.clone(),
        _ => return 0,
    };
    if chain_length(expr, &op) < CHAIN_OPERANDS {
        return 0;
    }
    let operands = operands(std::mem::replace(expr, hole()), &op);
    let count = operands.len();
    *expr = tree(operands, &op);
    count
}

/// How many operands the chain of one other operator has that starts at `expr`: `1 + 1 + 1 …`.
pub(super) fn other_chain(expr: &Expr) -> usize {
    let mut length = 1;
    let mut node = expr;
    while let Expr::BinaryOp { left, op, .. } = node
        && !matches!(op, BinaryOperator::And | BinaryOperator::Or)
    {
        length += 1;
        node = left;
    }
    length
}

/// Balances a chain of UNION ALL, or of UNION, that starts at `body`. Both are associative; the names of the columns
/// are those of the first query, which stays the first.
pub(super) fn balance_unions(body: &mut SetExpr) {
    let SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, .. } = body else { return };
    let kind = *set_quantifier;
    let like = |op: SetOperator, quantifier| op == SetOperator::Union && quantifier == kind;
    if !matches!(kind, SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None) {
        return;
    }
    let (mut length, mut node) = (1, &*body);
    while let SetExpr::SetOperation { left, op, set_quantifier, .. } = node
        && like(*op, *set_quantifier)
    {
        length += 1;
        node = left;
    }
    if length < CHAIN_OPERANDS {
        return;
    }
    let mut reversed = Vec::with_capacity(length);
    let mut rest = std::mem::replace(body, empty_query());
    loop {
        match rest {
            SetExpr::SetOperation { left, op, set_quantifier, right } if like(op, set_quantifier) => {
                reversed.push(*right);
                rest = *left;
            }
            first => {
                reversed.push(first);
                break;
            }
        }
    }
    reversed.reverse();
    *body = union_tree(reversed, kind);
}

fn empty_query() -> SetExpr {
    SetExpr::Values(Values { explicit_row: false, value_keyword: false, rows: Vec::new() })
}

fn union_tree(mut queries: Vec<SetExpr>, kind: SetQuantifier) -> SetExpr {
    if queries.len() <= 1 {
        return queries.pop().unwrap_or_else(empty_query);
    }
    let right = queries.split_off(queries.len() / 2);
    let (left, right) = (Box::new(union_tree(queries, kind)), Box::new(union_tree(right, kind)));
    SetExpr::SetOperation { left, op: SetOperator::Union, set_quantifier: kind, right }
}

fn hole() -> Expr {
    Expr::value(Value::Null)
}

fn chain_length(mut expr: &Expr, chain: &BinaryOperator) -> usize {
    let mut length = 1;
    while let Expr::BinaryOp { left, op, .. } = expr
        && op == chain
    {
        length += 1;
        expr = left;
    }
    length
}

/// The operands from left to right. A loop, not a recursion: the chain is as deep as it is long.
fn operands(mut expr: Expr, chain: &BinaryOperator) -> Vec<Expr> {
    let mut reversed = Vec::new();
    loop {
        match expr {
            Expr::BinaryOp { left, op, right } if op == *chain => {
                reversed.push(*right);
                expr = *left;
            }
            first => {
                reversed.push(first);
                reversed.reverse();
                return reversed;
            }
        }
    }
}

fn tree(mut operands: Vec<Expr>, op: &BinaryOperator) -> Expr {
    if operands.len() <= 1 {
        return operands.pop().unwrap_or_else(hole);
    }
    let right = operands.split_off(operands.len() / 2);
    let (left, right) = (Box::new(nested(tree(operands, op))), Box::new(nested(tree(right, op))));
    Expr::BinaryOp { left, op: op.clone(), right }
}

/// Parentheses, so that the printed SQL has the tree's meaning.
fn nested(expr: Expr) -> Expr {
    match expr {
        Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. } => Expr::Nested(Box::new(expr)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaf(name: usize) -> Expr {
        Expr::value(Value::Number(name.to_string(), false))
    }

    /// The operands in order, and how deep the tree is.
    fn flatten(expr: &Expr, operands: &mut Vec<String>) -> usize {
        match expr {
            Expr::BinaryOp { left, right, .. } => 1 + flatten(left, operands).max(flatten(right, operands)),
            Expr::Nested(inner) => flatten(inner, operands),
            leaf => {
                operands.push(leaf.to_string());
                0
            }
        }
    }

    proptest! {
        #[test]
        fn operands_keep_their_order_and_the_tree_is_flat(count in 1_usize..3000) {
            let op = BinaryOperator::Or;
            let chain = |left: Expr, name| Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(leaf(name)) };
            let mut expr = (1..count).fold(leaf(0), chain);
            let balanced = balance(&mut expr);
            prop_assert_eq!(balanced, if count < CHAIN_OPERANDS { 0 } else { count });
            let mut operands = Vec::new();
            let depth = flatten(&expr, &mut operands);
            prop_assert_eq!(operands, (0..count).map(|name| name.to_string()).collect::<Vec<_>>());
            prop_assert!(depth <= CHAIN_OPERANDS.max(count.ilog2() as usize + 1));
        }
    }
}
