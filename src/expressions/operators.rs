//! Operators as functions, whose failure is an error of the record.
//!
//! Put into a program by `rewrite`, compiled as VRL's own operators are. What they add: types that never work together are
//! a problem of the file, text is not made without end, and a whole number that does not fit 64 bits is a failure, where VRL
//! would go on with another one.

use ::vrl::compiler::expression::{Expr, Op};
use ::vrl::compiler::function::{ArgumentList, Compiled};
use ::vrl::compiler::value::{VrlValueArithmetic, kind};
use ::vrl::compiler::{
    Context, Expression, ExpressionError, Function, FunctionExpression, Parameter, Resolved, TypeDef,
    TypeState,
};
use ::vrl::diagnostic::{DiagnosticMessage, Span};
use ::vrl::parser::ast::{Node, Opcode};
use ::vrl::value::{Kind, Value};

use super::bounds::{added, repeated};
use super::kinds::types_of;
use super::own::Own;
use super::refused::Refused;
use crate::model::Types;

/// All of them, for the closed list.
pub(super) fn functions() -> impl Iterator<Item = Box<dyn Function>> {
    OPERATORS.iter().flat_map(|(opcode, name, quiet)| {
        let one = |name, quiet| {
            let opcode = *opcode;
            Own::boxed(name, PARAMETERS, move |state, span, sides| call(opcode, quiet, state, span, sides))
        };
        [one(*name, false), one(*quiet, true)]
    })
}

/// Operators as functions. As a function, an operator can be called with `!`: then its failure is an error of the
/// record instead of one of the program. The second name is that of an operator that is so by itself, whether or not it
/// can fail. The names cannot be written by a user.
const OPERATORS: [(Opcode, &str, &str); 12] = [
    (Opcode::Mul, "$multiply", "$multiply$"),
    (Opcode::Div, "$divide", "$divide$"),
    (Opcode::Add, "$add", "$add$"),
    (Opcode::Sub, "$subtract", "$subtract$"),
    (Opcode::Or, "$or", "$or$"),
    (Opcode::And, "$and", "$and$"),
    (Opcode::Ne, "$not_equal", "$not_equal$"),
    (Opcode::Eq, "$equal", "$equal$"),
    (Opcode::Ge, "$at_least", "$at_least$"),
    (Opcode::Gt, "$greater", "$greater$"),
    (Opcode::Le, "$at_most", "$at_most$"),
    (Opcode::Lt, "$less", "$less$"),
];

/// How the name of a quiet one ends.
pub(super) const QUIET: char = '$';

/// The function that does what the operator does; none for `??` and `|`.
pub(super) fn operator(opcode: Opcode, quiet: bool) -> Option<&'static str> {
    OPERATORS.iter().find(|(o, ..)| *o == opcode).map(|(_, name, own)| if quiet { *own } else { *name })
}

/// Is it the name of such a function?
pub(super) fn is_operator(function: &str) -> bool {
    OPERATORS.iter().any(|(_, name, quiet)| [*name, *quiet].contains(&function))
}

const PARAMETERS: &[Parameter] = &[
    Parameter::required("left", kind::ANY, "left of the operator"),
    Parameter::required("right", kind::ANY, "right of the operator"),
];

fn call(opcode: Opcode, quiet: bool, state: &TypeState, span: Span, arguments: &ArgumentList) -> Compiled {
    let (left, right) = (arguments.required_expr("left"), arguments.required_expr("right"));
    let kind = |side: &Expr| side.type_def(state).kind().clone();
    if let Some(never) = Never::new(opcode, &kind(&left), &kind(&right)) {
        return Err(Box::new(never.refused(span)));
    }
    let makes = matches!(opcode, Opcode::Add | Opcode::Sub | Opcode::Mul);
    if makes
        && let (Some(left), Some(right)) = (left.resolve_constant(state), right.resolve_constant(state))
        && let Err(message) = bounded(opcode, &left, &right)
    {
        let help = "write a smaller number".to_owned();
        return Err(Box::new(Refused { message, label: "too much".into(), help, span }));
    }
    let op = Op::new(
        Node::new(span, left.clone()),
        Node::new(span, opcode),
        Node::new(span, right.clone()),
        state,
    )
    .map_err(|e| Box::new(e) as Box<dyn DiagnosticMessage>)?;
    let constant = op.resolve_constant(state);
    let sides = makes.then(|| Box::new((opcode, left, right)));
    Ok(OperatorCall { op, sides, constant, quiet }.as_expr())
}

/// What VRL would do without a word: make text without end, or a number that is another one because it has 64 bits.
fn bounded(opcode: Opcode, left: &Value, right: &Value) -> Result<(), String> {
    if let (Value::Integer(l), Value::Integer(r)) = (left, right) {
        let whole = match opcode {
            Opcode::Add => l.checked_add(*r),
            Opcode::Sub => l.checked_sub(*r),
            _ => l.checked_mul(*r),
        };
        return whole.map(|_| ()).ok_or_else(|| format!("{l} {opcode} {r} is no whole number of 64 bits"));
    }
    match opcode {
        Opcode::Add => added(left, right),
        Opcode::Sub => Ok(()),
        _ => repeated(left, right),
    }
}

/// An operator between types that it can never work with.
#[derive(Debug)]
struct Never {
    opcode: Opcode,
    left: Types,
    right: Types,
}

impl Never {
    fn new(opcode: Opcode, left: &Kind, right: &Kind) -> Option<Never> {
        // Times of VRL's own, made by its functions, have rules of their own.
        if left.contains_timestamp() || right.contains_timestamp() || left.is_never() || right.is_never() {
            return None;
        }
        let (left, right) = (types_of(left), types_of(right));
        let number = Types::INTEGER.or(Types::FLOAT);
        let both = |types: Types| left.may_be(types) && right.may_be(types);
        let maybe_null = Types::STRING.or(Types::NULL);
        let possible = match opcode {
            Opcode::Add => {
                both(number)
                    || (left.may_be(Types::STRING) && right.may_be(maybe_null))
                    || (left.may_be(maybe_null) && right.may_be(Types::STRING))
            }
            Opcode::Sub | Opcode::Div => both(number),
            Opcode::Mul => {
                both(number)
                    || (left.may_be(Types::STRING) && right.may_be(Types::INTEGER))
                    || (left.may_be(Types::INTEGER) && right.may_be(Types::STRING))
            }
            Opcode::Gt | Opcode::Ge | Opcode::Lt | Opcode::Le => both(number) || both(Types::STRING),
            Opcode::And => both(Types::BOOLEAN.or(Types::NULL)),
            // Against null anything may be compared: that asks whether something is there.
            Opcode::Eq | Opcode::Ne => {
                both(number) || left.may_be(right) || left.or(right).may_be(Types::NULL)
            }
            Opcode::Or | Opcode::Err | Opcode::Merge => true,
        };
        (!possible).then_some(Never { opcode, left, right })
    }

    fn refused(&self, span: Span) -> Refused {
        let Never { opcode, left, right } = self;
        let help = match opcode {
            Opcode::Add if left.may_be(Types::STRING) || right.may_be(Types::STRING) => {
                "make both text, `to_string(.a) + \"b\"`, or both numbers, `to_int(.a) + 1`"
            }
            Opcode::Add | Opcode::Sub | Opcode::Mul | Opcode::Div => {
                "both sides have to be numbers: `to_int(.a)` and `to_float(.a)` read one from text"
            }
            Opcode::And => "both sides have to be true or false: `.a > 1 && .b == \"x\"`",
            _ => {
                "compare numbers with numbers and text with text: `to_int(.a) > 3`, `to_string(.a) == \"3\"`"
            }
        };
        Refused {
            message: match opcode {
                Opcode::Eq => format!("`==` is never true between {left} and {right}"),
                Opcode::Ne => format!("`!=` is always true between {left} and {right}"),
                _ => format!("`{opcode}` never works between {left} and {right}"),
            },
            label: format!("{left} and {right}"),
            help: help.into(),
            span,
        }
    }
}

/// Runs the operator; says in a failure what really failed.
#[derive(Clone, Debug)]
struct OperatorCall {
    op: Op,
    /// Of `+`, `-` and `*`, which may make too much.
    sides: Option<Box<(Opcode, Expr, Expr)>>,
    constant: Option<Value>,
    quiet: bool,
}

impl FunctionExpression for OperatorCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        if let Some((opcode, left, right)) = self.sides.as_deref() {
            let (left, right) = (left.resolve(cx)?, right.resolve(cx)?);
            bounded(*opcode, &left, &right)?;
            let result = match opcode {
                Opcode::Add => left.try_add(right),
                Opcode::Sub => left.try_sub(right),
                _ => left.try_mul(right),
            };
            return result.map_err(Into::into);
        }
        self.op.resolve(cx).map_err(|error| match error {
            ExpressionError::Error { message, labels, notes } => ExpressionError::Error {
                // VRL 0.38 says this of every comparison.
                message: message.replace("can't calculate remainder of type", "can't compare type"),
                labels,
                notes,
            },
            other => other,
        })
    }
    fn type_def(&self, state: &TypeState) -> TypeDef {
        let result = Expression::type_def(&self.op, state);
        // Text that `*` makes is a failure that may be handled. Where VRL has none, ours ends the expression.
        let repeats = self.sides.as_deref().is_some_and(|(opcode, ..)| *opcode == Opcode::Mul);
        match (self.quiet, repeats && result.kind().contains_bytes()) {
            (true, _) => result.infallible(),
            (false, true) => result.fallible(),
            (false, false) => result,
        }
    }
    fn as_value(&self) -> Option<Value> {
        self.constant.clone()
    }
}
