//! CREATE MACRO: functions and tables that are written in SQL.
//!
//! Enters: definitions, those of the session and those of [`crate::function::MACROS`]. Leaves: statements in
//! which each call is the macro's body with the arguments in place. Always holds: a macro that calls itself
//! is an error; FILTER and OVER of a call go to the aggregates of the body.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, Ident, MacroDefinition,
    ObjectName, Query, Select, SelectItem, Statement as Sql, TableFactor, VisitMut, VisitorMut, visit_expressions_mut,
};

use super::columns::{has, is_columns};
use super::{Stop, ast, flow, special, visit_body, wrong};
use crate::config::MACRO_DEPTH;
use crate::error::{Error, Result};
use crate::function;
use crate::parser::{is_mark, mark, parse_expression};

/// What a statement defines, if it is CREATE MACRO, SET VARIABLE or DROP MACRO.
#[derive(Debug)]
pub enum Definition {
    /// CREATE MACRO.
    Macro {
        /// Its name, in lower case unless quoted.
        name: String,
        /// OR REPLACE.
        replace: bool,
        /// What it is.
        body: Macro,
    },
    /// SET VARIABLE.
    Variable(String, Expr),
    /// DROP MACRO.
    Drop {
        /// The macro's name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
}

/// A macro.
#[derive(Debug, Clone)]
pub struct Macro {
    parameters: Vec<(String, Option<Expr>)>,
    body: MacroDefinition,
}

/// The macros and variables of a session.
#[derive(Debug, Default)]
pub struct Macros {
    own: Mutex<HashMap<String, Macro>>,
    variables: Mutex<HashMap<String, Expr>>,
}

/// Reads a definition.
pub fn definition(body: &Body) -> Option<Definition> {
    let Body::Statement(sql) = body else { return None };
    match sql.as_ref() {
        Sql::CreateMacro { or_replace, name, args, definition, .. } => {
            let last = ast::last_part(name);
            if first_part(name).is_some_and(|first| is_mark(first, mark::VARIABLE))
                && let MacroDefinition::Expr(expr) = definition
            {
                return Some(Definition::Variable(last, expr.clone()));
            }
            let parameters = args.iter().flatten().map(|arg| (ast::meant(&arg.name), arg.default_expr.clone()));
            let body = Macro { parameters: parameters.collect(), body: definition.clone() };
            Some(Definition::Macro { name: last, replace: *or_replace, body })
        }
        Sql::DropFunction(drop) => {
            let name = &drop.func_desc.first()?.name;
            let marked = first_part(name).is_some_and(|first| is_mark(first, mark::MACRO));
            marked.then(|| Definition::Drop { name: ast::last_part(name), if_exists: drop.if_exists })
        }
        _ => None,
    }
}

fn first_part(name: &ObjectName) -> Option<&Ident> {
    name.0.first().and_then(|part| part.as_ident())
}

impl Macros {
    /// Takes over a definition.
    pub fn define(&self, definition: Definition) -> Result<()> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        match definition {
            Definition::Macro { name, replace, body } => {
                if own.contains_key(&name) && !replace {
                    return Err(Error::sql(format!("there is a macro named {name}"))
                        .hint("CREATE OR REPLACE MACRO puts a new one in its place"));
                }
                own.insert(name, body);
            }
            Definition::Variable(name, value) => {
                self.variables.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
            }
            Definition::Drop { name, if_exists } => {
                if own.remove(&name).is_none() && !if_exists {
                    return Err(Error::sql(format!("no macro named {name}")));
                }
            }
        }
        Ok(())
    }

    /// Puts the bodies of macros in place of their calls.
    pub fn expand(&self, body: &mut Body, is_aggregate: &dyn Fn(&str) -> bool) -> Result<()> {
        let mut pass = Expansion { macros: self, is_aggregate, depth: 0 };
        match visit_body(body, &mut pass) {
            ControlFlow::Break(Stop::Fail(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The macro of a name that takes so many arguments.
    fn get(&self, name: &ObjectName, arguments: usize) -> Option<Macro> {
        let [part] = name.0.as_slice() else { return None };
        let name = ast::meant(part.as_ident()?);
        if let Some(own) = self.own.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Some(own.clone());
        }
        let fits = |parameters: &[&str]| {
            let least = parameters.iter().filter(|parameter| !parameter.contains(" := ")).count();
            (least..=parameters.len()).contains(&arguments)
        };
        let mut named = function::MACROS.iter().filter(|(given, _, _)| *given == name);
        let (_, parameters, body) = named.find(|(_, parameters, _)| fits(parameters))?;
        let parameters = parameters.iter().map(|parameter| match parameter.split_once(" := ") {
            Some((name, value)) => (name.to_owned(), parse_expression(value).ok()),
            None => ((*parameter).to_owned(), None),
        });
        let body = MacroDefinition::Expr(parse_expression(body).ok()?);
        Some(Macro { parameters: parameters.collect(), body })
    }
}

struct Expansion<'a> {
    macros: &'a Macros,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    depth: usize,
}

impl Expansion<'_> {
    /// The body with the arguments in place; nothing if the macro is of the other kind.
    fn arguments(&self, name: &ObjectName, of: &Macro, args: &[FunctionArg]) -> Result<HashMap<String, Expr>> {
        let mut given: HashMap<String, Expr> = HashMap::new();
        let mut place = 0;
        for arg in args {
            let (key, value) = match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                    let key = of.parameters.get(place).map(|(name, _)| name.clone());
                    place += 1;
                    (key, expr)
                }
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                    let key = ast::meant(name);
                    (of.parameters.iter().any(|(name, _)| *name == key).then_some(key), expr)
                }
                FunctionArg::ExprNamed { name: Expr::Identifier(name), arg: FunctionArgExpr::Expr(expr), .. } => {
                    let key = ast::meant(name);
                    (of.parameters.iter().any(|(name, _)| *name == key).then_some(key), expr)
                }
                other => return Err(wrong(format!("{name} is a macro and does not take {other}"), name)),
            };
            let Some(key) = key else { return Err(misfit(name, of)) };
            given.insert(key, value.clone());
        }
        for (parameter, default) in &of.parameters {
            if !given.contains_key(parameter) {
                let default = default.clone().ok_or_else(|| misfit(name, of))?;
                given.insert(parameter.clone(), default);
            }
        }
        Ok(given)
    }

    fn call(&mut self, expr: &mut Expr) -> Result<()> {
        let Expr::Function(call) = expr else { return Ok(()) };
        if call.name.to_string().eq_ignore_ascii_case("getvariable")
            && let [Expr::Value(value)] = ast::args(call).as_slice()
        {
            let name = value.value.clone().into_string().unwrap_or_default().to_lowercase();
            let variables = self.macros.variables.lock().unwrap_or_else(PoisonError::into_inner);
            *expr = variables.get(&name).cloned().unwrap_or_else(ast::null);
            return Ok(());
        }
        let own = call.name.0.first().and_then(|part| part.as_ident()).map(ast::meant).unwrap_or_default();
        let own = self.macros.own.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&own);
        if !own && let Some(known) = special::respelled(call) {
            *expr = known?;
            return Ok(());
        }
        let count = match &call.args {
            FunctionArguments::List(list) => list.args.len(),
            _ => 0,
        };
        let Some(of) = self.macros.get(&call.name, count) else { return Ok(()) };
        let MacroDefinition::Expr(body) = &of.body else { return Ok(()) };
        let (args, clauses) = match &call.args {
            FunctionArguments::List(list) => (list.args.clone(), list.clauses.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        let given = self.arguments(&call.name, &of, &args)?;
        let mut body = body.clone();
        substitute(&mut body, &given);
        self.pass_on(call, &clauses, &mut body)?;
        let name = call.name.to_string();
        *expr = Expr::Nested(Box::new(body));
        self.again(expr, &name)
    }

    /// FILTER, OVER, DISTINCT and ORDER BY of the call belong to the aggregates of the body.
    fn pass_on(&self, call: &Function, clauses: &[FunctionArgumentClause], body: &mut Expr) -> Result<()> {
        let distinct = match &call.args {
            FunctionArguments::List(list) => list.duplicate_treatment,
            _ => None,
        };
        if call.filter.is_none() && call.over.is_none() && distinct.is_none() && clauses.is_empty() {
            return Ok(());
        }
        let mut found = false;
        let _ = visit_expressions_mut(body, |expr| {
            if let Expr::Function(inner) = expr
                && (self.is_aggregate)(&inner.name.to_string().to_lowercase())
            {
                found = true;
                let both = inner.filter.take().into_iter().chain(call.filter.clone()).map(|filter| *filter);
                inner.filter = ast::all(both).map(Box::new);
                inner.over = inner.over.take().or_else(|| call.over.clone());
                if let FunctionArguments::List(list) = &mut inner.args {
                    list.duplicate_treatment = list.duplicate_treatment.or(distinct);
                    if list.clauses.is_empty() {
                        list.clauses = clauses.to_vec();
                    }
                }
            }
            ControlFlow::<()>::Continue(())
        });
        if found {
            Ok(())
        } else {
            Err(wrong(
                format!("{} is no aggregate: FILTER, OVER and DISTINCT have no meaning for it", call.name),
                &call.name,
            ))
        }
    }

    fn table(&mut self, factor: &mut TableFactor) -> Result<()> {
        let (name, args, alias) = match factor {
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, args.args.clone(), alias.clone()),
            TableFactor::Function { name, args, alias, .. } => (name, args.clone(), alias.clone()),
            _ => return Ok(()),
        };
        let Some(of) = self.macros.get(name, args.len()) else { return Ok(()) };
        let MacroDefinition::Table(query) = &of.body else { return Ok(()) };
        let given = self.arguments(name, &of, &args)?;
        let mut query: Query = Query::clone(query);
        substitute(&mut query, &given);
        let text = name.to_string();
        *factor = ast::derived(query, alias.or_else(|| Some(ast::alias(&ast::last_part(name)))));
        self.again(factor, &text)
    }

    /// The body may call other macros.
    fn again(&mut self, node: &mut impl VisitMut, name: &str) -> Result<()> {
        if self.depth >= MACRO_DEPTH {
            return Err(Error::sql(format!("the macro {name} calls itself")).mark(name));
        }
        self.depth += 1;
        let done = node.visit(self);
        self.depth -= 1;
        match done {
            ControlFlow::Break(Stop::Fail(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

fn misfit(name: &ObjectName, of: &Macro) -> Error {
    let parameters: Vec<String> = of
        .parameters
        .iter()
        .map(|(name, default)| match default {
            Some(value) => format!("{name} := {value}"),
            None => name.clone(),
        })
        .collect();
    wrong(format!("the arguments do not fit {name}({})", parameters.join(", ")), name)
}

/// Puts the arguments in the place of the parameters.
fn substitute(node: &mut impl VisitMut, given: &HashMap<String, Expr>) {
    let mut pass = Substitution { given };
    let _ = node.visit(&mut pass);
}

struct Substitution<'a> {
    given: &'a HashMap<String, Expr>,
}

impl VisitorMut for Substitution<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => {
                if let Some(value) = self.given.get(&ast::meant(name)) {
                    *expr = match value {
                        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::Lambda(_) => {
                            value.clone()
                        }
                        other => Expr::Nested(Box::new(other.clone())),
                    };
                }
            }
            Expr::CompoundIdentifier(parts) => {
                if let Some(Expr::Identifier(table)) =
                    parts.first().and_then(|first| self.given.get(&ast::meant(first)))
                    && let Some(first) = parts.first_mut()
                {
                    *first = table.clone();
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Expansion<'_> {
    /// True for a call of a macro, or of what is spelled as one.
    fn is_call(&self, expr: &Expr) -> bool {
        let Expr::Function(call) = expr else { return false };
        let count = match &call.args {
            FunctionArguments::List(list) => list.args.len(),
            _ => 0,
        };
        special::is_respelled(call) || self.macros.get(&call.name, count).is_some()
    }
}

impl VisitorMut for Expansion<'_> {
    type Break = Stop;

    /// A column keeps the name that the call gives it.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Stop> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && has(expr, |expr| self.is_call(expr))
                && !has(expr, is_columns)
                && self.depth == 0
            {
                let name = ast::name(&expr.to_string());
                *item = ast::item(expr.clone(), Some(name));
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Stop> {
        special::access(expr);
        flow(self.call(expr).map_err(Stop::from))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Stop> {
        flow(self.table(factor).map_err(Stop::from))
    }
}
