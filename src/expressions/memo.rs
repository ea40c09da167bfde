//! Remembers the types of calls, and checks the size of their results.
//!
//! VRL asks a call for its type several times per level, and each answer asks all calls inside it again, so the time
//! doubles with every operand of a sum. Here every compiled call remembers its answers, by the state of the program
//! they were for.
//!
//! The size check (`bounds`) is here too, because every call goes through this wrapper.

use std::sync::{Arc, Mutex, PoisonError};

use ::vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext, closure};
use ::vrl::compiler::{
    Context, Expression, ExpressionError, Function, Parameter, Resolved, TypeInfo, TypeState,
};
use ::vrl::value::Value;

use super::bounds::fits;

/// How many states are remembered: before and after the call's arguments, and as the calls around it change it.
const STATES_MAX: usize = 4;

/// A function whose calls remember their types.
#[derive(Debug)]
pub(super) struct Remembering(pub Box<dyn Function>);

impl Function for Remembering {
    fn identifier(&self) -> &'static str {
        self.0.identifier()
    }
    fn summary(&self) -> &'static str {
        self.0.summary()
    }
    fn usage(&self) -> &'static str {
        self.0.usage()
    }
    fn category(&self) -> &'static str {
        self.0.category()
    }
    fn internal_failure_reasons(&self) -> &'static [&'static str] {
        self.0.internal_failure_reasons()
    }
    fn return_kind(&self) -> u16 {
        self.0.return_kind()
    }
    fn return_rules(&self) -> &'static [&'static str] {
        self.0.return_rules()
    }
    fn notices(&self) -> &'static [&'static str] {
        self.0.notices()
    }
    fn pure(&self) -> bool {
        self.0.pure()
    }
    fn examples(&self) -> &'static [Example] {
        self.0.examples()
    }
    fn parameters(&self) -> &'static [Parameter] {
        self.0.parameters()
    }
    fn closure(&self) -> Option<closure::Definition> {
        self.0.closure()
    }
    fn compile(
        &self,
        state: &TypeState,
        cx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let call = self.0.compile(state, cx, arguments)?;
        Ok(Box::new(Call { call: Arc::from(call), answers: Arc::default() }))
    }
}

/// A compiled call. Its copies share it: VRL keeps two copies of each argument, so real copies would double with every
/// level.
#[derive(Clone, Debug)]
struct Call {
    call: Arc<dyn Expression>,
    /// A mutex, because expressions are shared between threads. There is no contention: only the compiler asks for
    /// types.
    answers: Arc<Mutex<Vec<(TypeState, TypeInfo)>>>,
}

impl Expression for Call {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let result = self.call.resolve(cx)?;
        fits(&result)?;
        Ok(result)
    }
    fn resolve_unused(&self, cx: &mut Context) -> Result<(), ExpressionError> {
        self.call.resolve_unused(cx)
    }
    fn resolve_constant(&self, state: &TypeState) -> Option<Value> {
        self.call.resolve_constant(state)
    }
    fn type_info(&self, state: &TypeState) -> TypeInfo {
        let known = |answers: &Vec<(TypeState, TypeInfo)>| {
            answers.iter().find(|(of, _)| of == state).map(|(_, answer)| answer.clone())
        };
        let answers = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known(&answers()) {
            return answer;
        }
        // Asked without holding the lock, because the answer may need this call's own arguments.
        let answer = self.call.type_info(state);
        let mut answers = answers();
        if answers.len() == STATES_MAX {
            answers.remove(0);
        }
        answers.push((state.clone(), answer.clone()));
        answer
    }
    fn format(&self) -> Option<String> {
        self.call.format()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{VrlCompiler, kind_of};
    use crate::model::{Field, Shape};

    /// Generous: if the time doubled with every operand, fifty operands would take years.
    const TIME_MAX: Duration = Duration::from_secs(60);

    fn operands(n: usize, operator: &str, operand: impl Fn(usize) -> String) -> String {
        (0..n).map(operand).collect::<Vec<_>>().join(operator)
    }

    fn check(text: &str, shape: &Shape) {
        let began = Instant::now();
        let compiled = VrlCompiler::new("").compile_typed(text, None, &[], &kind_of(shape));
        let took = began.elapsed();
        assert!(compiled.is_ok(), "{text}: {:?}", compiled.err());
        assert!(took < TIME_MAX, "{text} took {took:?}");
    }

    #[test]
    fn fifty_operands_compile_in_no_time() {
        let field = |n: usize| format!(".a{n}");
        for operator in [" + ", " * ", " - ", " && ", " || "] {
            check(&operands(50, operator, field), &Shape::Any);
        }
        let typed = |shape: &Shape, optional: bool| {
            let field = |n| (format!("a{n}"), Field { shape: shape.clone(), optional });
            Shape::Object { fields: (0..50).map(field).collect(), rest: None }
        };
        for shape in [Shape::Integer, Shape::Number] {
            check(&operands(50, " * ", field), &typed(&shape, false));
            check(&operands(50, " + ", field), &typed(&shape, false));
            check(&operands(50, " * ", field), &typed(&shape, true));
        }
        check(&operands(50, " + \" \" + ", field), &typed(&Shape::String, false));
    }

    #[test]
    fn calls_inside_calls_compile_in_no_time() {
        let nested = |n: usize, f: &str, inner: &str, end: &str| {
            format!("{}{inner}{}", format!("{f}(").repeat(n), end.repeat(n))
        };
        for text in [
            nested(40, "abs", ".x", ")"),
            nested(40, "merge", ".x", ", .y)"),
            nested(40, "push", ".x", ", 1)"),
            nested(20, "string", ".x", ") + \"y\""),
        ] {
            check(&text, &Shape::Any);
        }
    }

    #[test]
    fn a_type_follows_what_the_program_does_to_the_value() {
        let field = |name: &str, shape| (name.to_owned(), Field { shape, optional: false });
        let fields = vec![field("a", Shape::Integer), field("b", Shape::String)];
        let shape = Shape::Object { fields, rest: None };
        let kind =
            |text: &str| VrlCompiler::new("").compile_typed(text, None, &[], &kind_of(&shape)).map(|c| c.1);
        assert!(
            kind("x = del(.a)\n.a").is_ok_and(|k| !k.contains_integer() && !k.contains_bytes()),
            "deleted"
        );
        assert!(
            kind("x = to_string(del(.a)) + to_string(del(.b))\n.b")
                .is_ok_and(|k| !k.contains_integer() && !k.contains_bytes()),
            "deleted"
        );
        assert!(kind(".a = to_string(.a)\nupcase(.a) + .b").is_ok_and(|k| k.is_bytes()));
        assert!(kind("n = 0\nfor_each([1, 2]) -> |_i, v| { n = n + v }\nn").is_ok());
    }
}
