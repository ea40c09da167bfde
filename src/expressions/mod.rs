//! Floor 1: expressions in a language: compiled with VRL when the file is loaded, run for each record.
//!
//! `yaml/` calls this for every expression that is not bare. The only place that uses the crate `vrl`. In an
//! expression, `.` is the record's value, of any type; `key`, `timestamp`, `headers`, `window`, `origin` and the names that the
//! node adds are variables; the result is the value of the last line. Syntax errors, unknown functions and types that
//! can never fit are problems of the file; anything that fails at run time is an [`EvalError`](crate::model::EvalError)
//! of its record (see `rewrite`). Dates without a zone are UTC.

mod bounds;
mod compiled;
mod complaint;
mod equal;
mod functions;
mod guard;
mod kinds;
mod measure;
mod memo;
mod names;
mod object;
mod operators;
mod own;
mod refused;
mod replace;
mod rewrite;
mod text;
mod typing;
mod users;

use std::ops::Range;
use std::sync::Arc;

use ::vrl::compiler::{CompileConfig, Compiler, Program};
use ::vrl::diagnostic::DiagnosticList;
use ::vrl::parser;
pub use ::vrl::value::Kind;

use self::compiled::{Compiled, from_json};
pub use self::functions::DENIED;
use self::guard::deep;
pub use self::kinds::{element, kind_of, object, types_of, with_field};
use self::measure::measure;
use self::names::{NAMES, mentions, shielded, state, with_names};
use self::object::ObjectOf;
use self::refused::is_refused;
use self::rewrite::Fixes;
pub use self::typing::Typing;
pub use self::users::OwnFunction;
use crate::model::path::parse_path;
use crate::model::{Expr, Function, Problem, Types, read_json};

/// Each round answers complaints one level further out. An expression that needs more rounds is refused.
const ROUNDS_MAX: usize = 64;

/// Compiles expressions. Knows the allowed functions, and the file's text for finding the places of errors.
pub struct VrlCompiler {
    functions: Vec<Box<dyn ::vrl::compiler::Function>>,
    source: String,
}

impl VrlCompiler {
    /// A compiler for the expressions of a file with this text. With an empty text, errors point at whole expressions.
    #[must_use]
    pub fn new(source: impl Into<String>) -> VrlCompiler {
        VrlCompiler::with(source, &[])
    }

    /// A compiler that knows functions of a user's own crate too.
    #[must_use]
    pub fn with(source: impl Into<String>, own: &[OwnFunction]) -> VrlCompiler {
        VrlCompiler { functions: functions::functions(own), source: source.into() }
    }

    /// Compiles the expression at `span` of the file. It may read `vars` besides the names that every expression has.
    ///
    /// # Errors
    /// The text is not an expression, calls an unknown function, or has types that can never fit.
    pub fn compile(
        &self,
        text: &str,
        span: Option<Range<usize>>,
        vars: &[&str],
    ) -> Result<Arc<dyn Function>, Problem> {
        self.compile_typed(text, span, vars, &Kind::any()).map(|(function, _)| function)
    }

    /// Like [`VrlCompiler::compile`], for values of this kind; also returns the kind of the result.
    ///
    /// # Errors
    /// As for `compile`, or a field is named that the values do not have.
    pub fn compile_typed(
        &self,
        text: &str,
        span: Option<Range<usize>>,
        vars: &[&str],
        value: &Kind,
    ) -> Result<(Arc<dyn Function>, Kind), Problem> {
        self.compile_scoped(text, span, &untyped(vars), value)
    }

    /// Like [`VrlCompiler::compile_typed`], for variables whose kinds are known too.
    ///
    /// # Errors
    /// The same.
    pub fn compile_scoped(
        &self,
        text: &str,
        span: Option<Range<usize>>,
        vars: &[(&str, Kind)],
        value: &Kind,
    ) -> Result<(Arc<dyn Function>, Kind), Problem> {
        let names: Vec<&str> = vars.iter().map(|(name, _)| *name).collect();
        if !value.is_any() || vars.iter().any(|(_, kind)| !kind.is_any()) {
            // A missing field is reported first; the errors that follow from it say less.
            let (program, _) = self.program(text, span.as_ref(), &untyped(&names), &Kind::any())?;
            let of_names = || vars.iter().find_map(|(name, kind)| kinds::missing_of(text, name, kind));
            if let Some(missing) = kinds::missing_in(&program, value).or_else(of_names) {
                return Err(self.missing(text, span.as_ref(), missing));
            }
        }
        let (program, used) = self.program(text, span.as_ref(), vars, value)?;
        // The last line's value, or that of any `return` before it.
        let result = program.final_type_info().result;
        let result = result.kind().union(result.returns().clone());
        let function: Arc<dyn Function> =
            match ObjectOf::of(Compiled::new(program, text, &used), text, &names) {
                Ok(object) => Arc::new(object),
                Err(program) => Arc::new(program),
            };
        Ok((function, result))
    }

    /// The program, and which of the names it uses.
    fn program<'v>(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        vars: &[(&'v str, Kind)],
        value: &Kind,
    ) -> Result<(Program, Vec<&'v str>), Problem> {
        measure(text).map_err(|large| self.too_large(text, span, &large))?;
        let compiled = deep(|| self.program_of(text, span, vars, value));
        compiled.map_err(|panic| self.panicked(text, span, &panic))?
    }

    fn program_of<'v>(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        vars: &[(&'v str, Kind)],
        value: &Kind,
    ) -> Result<(Program, Vec<&'v str>), Problem> {
        let names: Vec<&'v str> = vars.iter().map(|(name, _)| *name).collect();
        let used: Vec<&str> =
            NAMES.iter().copied().chain(names.iter().copied()).filter(|name| mentions(text, name)).collect();
        let refused = |list: &DiagnosticList, fixes: &Fixes| self.problem(text, span, &names, list, fixes);
        let program = parser::parse(shielded(text)).map_err(|error| {
            let error: Box<dyn ::vrl::diagnostic::DiagnosticMessage> = Box::new(error);
            refused(&DiagnosticList::from(vec![error]), &Fixes::default())
        })?;
        let mut fixes = Fixes::default();
        let mut program_text = with_names(fixes.apply(program.clone()), &used);
        if let Some((at, message)) = fixes.far() {
            return Err(self.too_far(text, span, at, message));
        }
        let compile = |program| {
            let state = state(&used, vars, value);
            Compiler::compile(&self.functions, program, &state, CompileConfig::default())
        };
        for round in 0..ROUNDS_MAX {
            match compile(program_text) {
                Ok(compiled) => {
                    // VRL itself accepts `1 == "a"`, and compares a whole number with a double as two doubles.
                    let compared = with_names(fixes.comparing().apply(program), &used);
                    let compared = match compile(compared) {
                        Ok(compared) => compared,
                        Err(list) => match list.iter().find(|complaint| is_refused(complaint)) {
                            Some(never) => return Err(self.problem_of(text, span, &names, never)),
                            None => compiled,
                        },
                    };
                    return Ok((compared.program, used));
                }
                Err(list) if fixes.learn(&list, round == 0) => {
                    program_text = with_names(fixes.apply(program.clone()), &used);
                }
                Err(list) => return Err(refused(&list, &fixes)),
            }
        }
        Err(refused(&DiagnosticList::default(), &fixes))
    }

    /// The kind of a bare expression, which needs no compiler.
    ///
    /// # Errors
    /// A field is named that the values do not have.
    fn bare_kind(&self, text: &str, span: Option<&Range<usize>>, value: &Kind) -> Result<Kind, Problem> {
        match text.trim() {
            "key" => return Ok(Kind::bytes().or_null()),
            "timestamp" => return Ok(Kind::integer()),
            _ => {}
        }
        if let Some(path) = parse_path(text) {
            return kinds::at(value, &path).map_err(|missing| self.missing(text, span, missing));
        }
        let literal = read_json(text.as_bytes()).ok().and_then(|json| from_json(&json).ok());
        Ok(literal.map_or_else(Kind::any, Kind::from))
    }
}

/// Variables of unknown kinds.
fn untyped<'v>(names: &[&'v str]) -> Vec<(&'v str, Kind)> {
    names.iter().map(|name| (*name, Kind::any())).collect()
}

/// Compiles the expression in place for values of this kind, and sets the kinds of its result; also returns them. A
/// bare expression is compiled already, but may name a field that does not exist.
pub fn compile_typed(
    expr: &mut Expr,
    compiler: &VrlCompiler,
    vars: &[&str],
    value: &Kind,
    problems: &mut Vec<Problem>,
) -> Kind {
    compile_scoped(expr, compiler, &untyped(vars), value, problems)
}

/// Like [`compile_typed`], for variables whose kinds are known too.
pub fn compile_scoped(
    expr: &mut Expr,
    compiler: &VrlCompiler,
    vars: &[(&str, Kind)],
    value: &Kind,
    problems: &mut Vec<Problem>,
) -> Kind {
    let result = if expr.is_compiled() {
        compiler.bare_kind(expr.text(), expr.span().as_ref(), value)
    } else {
        compiler.compile_scoped(expr.text(), expr.span(), vars, value).map(|(function, kind)| {
            expr.compile_with(function);
            kind
        })
    };
    match result {
        Ok(kind) => {
            // For a program that always aborts VRL says that it may return anything.
            expr.set_types(if kind.is_never() { Types::NEVER } else { types_of(&kind) });
            kind
        }
        Err(problem) => {
            problems.push(problem);
            Kind::any()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_expression_is_left_alone() {
        let (compiler, mut problems) = (VrlCompiler::new(""), Vec::new());
        let mut compiled = |text: &str| {
            let mut expr = Expr::new(text, None);
            compile_typed(&mut expr, &compiler, &[], &Kind::any(), &mut problems);
            expr.is_compiled()
        };
        assert!(compiled(".a.b") && compiled(".a > 1") && !compiled("nope("));
        assert_eq!(problems.len(), 1);
    }
}
