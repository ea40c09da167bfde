//! The expressions of one node, compiled for the values that reach it.

use super::{Kind, VrlCompiler, compile_scoped};
use crate::model::{Expr, Problem, Types};

/// What is known of the values that reach a node, for compiling its expressions; collects the problems.
pub struct Typing<'a> {
    compiler: &'a VrlCompiler,
    /// The values of the node that it reads.
    pub value: Kind,
    /// The values of the node named in `with`, if there is one.
    pub right: Kind,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Typing<'a> {
    /// For values of that kind.
    #[must_use]
    pub fn new(compiler: &'a VrlCompiler, value: Kind, problems: &'a mut Vec<Problem>) -> Typing<'a> {
        Typing { compiler, value, right: Kind::any(), problems }
    }

    /// Whether anything is known of the values.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.value.is_any()
    }

    /// Compiles an expression over the node's values, which may use `vars` besides the record's names; the kind of its
    /// result.
    pub fn compile(&mut self, expr: &mut Expr, vars: &[&str]) -> Kind {
        let value = self.value.clone();
        self.compile_for(expr, vars, &value)
    }

    /// Like [`Typing::compile`], for an expression whose `.` is another value.
    pub fn compile_for(&mut self, expr: &mut Expr, vars: &[&str], value: &Kind) -> Kind {
        let vars: Vec<(&str, Kind)> = vars.iter().map(|name| (*name, Kind::any())).collect();
        self.compile_scoped(expr, &vars, value)
    }

    /// Like [`Typing::compile_for`], for variables whose kinds are known.
    pub fn compile_scoped(&mut self, expr: &mut Expr, vars: &[(&str, Kind)], value: &Kind) -> Kind {
        compile_scoped(expr, self.compiler, vars, value, self.problems)
    }

    /// A problem where a compiled expression can never give one of these types. Where nothing is known of the values,
    /// nothing is asked.
    pub fn demand(&mut self, expr: &Expr, types: Types, what: &str) {
        let found = expr.types();
        if !self.is_known() || found == Types::NEVER || found.may_be(types) {
            return;
        }
        let message = format!("{what} has to be {types}, and `{}` is {found}", expr.text());
        let problem = Problem::new("expression", message)
            .help("write an expression that fits, or correct the type in the source's `schema`");
        self.problems.push(match expr.span() {
            Some(span) => problem.at(span, format!("always {found}")),
            None => problem,
        });
    }
}
