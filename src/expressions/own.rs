//! A function of our own, in the form that VRL wants: one form for all that `rewrite` puts into programs, and for those of
//! VRL's functions that are written again here because they had no bounds.

use std::fmt;

use ::vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext};
use ::vrl::compiler::value::kind;
use ::vrl::compiler::{Function, Parameter, TypeState};
use ::vrl::diagnostic::Span;

/// Makes a call of it: the types so far, the call's place, its arguments.
type Make = Box<dyn Fn(&TypeState, Span, &ArgumentList) -> Compiled + Send + Sync>;

/// See the module.
pub(super) struct Own {
    name: &'static str,
    parameters: &'static [Parameter],
    make: Make,
}

impl Own {
    /// A function of this name.
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

/// What is only for VRL's own documentation is left empty: nobody reads it here.
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
