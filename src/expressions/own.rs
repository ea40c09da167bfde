//! A function of our own in the form that VRL requires: for those that `rewrite` puts into programs, and for VRL
//! functions that are reimplemented here because VRL's had no limits.

use std::fmt;

use ::vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext};
use ::vrl::compiler::value::kind;
use ::vrl::compiler::{Function, Parameter, TypeState};
use ::vrl::diagnostic::Span;

/// Compiles a call from the types so far, the call's position and its arguments.
type Make = Box<dyn Fn(&TypeState, Span, &ArgumentList) -> Compiled + Send + Sync>;

/// A function of our own.
pub(super) struct Own {
    name: &'static str,
    parameters: &'static [Parameter],
    make: Make,
}

impl Own {
    /// The function with this name.
    pub(super) fn boxed(
        name: &'static str,
        parameters: &'static [Parameter],
        make: impl Fn(&TypeState, Span, &ArgumentList) -> Compiled + Send + Sync + 'static,
    ) -> Box<dyn Function> {
        Box::new(Own { name, parameters, make: Box::new(make) })
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What only VRL's documentation needs is left empty.
impl Function for Own {
    fn identifier(&self) -> &'static str {
        self.name
    }
    fn usage(&self) -> &'static str {
        ""
    }
    fn category(&self) -> &'static str {
        ""
    }
    fn return_kind(&self) -> u16 {
        kind::ANY
    }
    fn examples(&self) -> &'static [Example] {
        &[]
    }
    fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }
    fn compile(
        &self,
        state: &TypeState,
        cx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        (self.make)(state, cx.span(), &arguments)
    }
}
