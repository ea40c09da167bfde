//! Operators as functions, whose failure is an error of the record.
//!
//! `rewrite` puts them into a program in place of VRL's operators, and they behave like those, except that operand
//! types that never work together are a problem of the file, text is not made without limit, and a whole number that
//! does not fit into 64 bits is a failure, where VRL would wrap around.

use ::vrl::compiler::expression::{Expr, Op};
use ::vrl::compiler::function::{ArgumentList, Compiled};
use ::vrl::compiler::value::{VrlValueArithmetic, kind};
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::diagnostic::{DiagnosticMessage, Span};
use ::vrl::parser::ast::{Node, Opcode};
use ::vrl::value::{Kind, Value};

use super::bounds::{added, repeated};
use super::equal::{order, same};
use super::kinds::types_of;
use super::own::Own;
use super::refused::Refused;
use crate::model::Types;

/// All of them.
pub(super) fn functions() -> impl Iterator<Item = Box<dyn Function>> {
    OPERATORS.iter().flat_map(|(opcode, name, quiet)| {
        let one = |name, quiet| {
            let opcode = *opcode;
            Own::boxed(name, PARAMETERS, move |state, span, sides| call(opcode, quiet, state, span, sides))
        };
        [one(*name, false), one(*quiet, true)]
    })
}

/// Operators as functions. As a function, an operator can be called with `!`, which makes its failure an error of the
/// record instead of one of the program. The second name is that of the quiet variant, which counts as one that cannot
/// fail. Users cannot write these names.
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

/// The last character of a quiet variant's name.
pub(super) const QUIET: char = '$';

/// The function that stands for the operator; none for `??` and `|`.
pub(super) fn operator(opcode: Opcode, quiet: bool) -> Option<&'static str> {
    OPERATORS.iter().find(|(o, ..)| *o == opcode).map(|(_, name, own)| if quiet { *own } else { *name })
}

/// Whether this is the name of such a function.
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
    let constant = match (left.resolve_constant(state), right.resolve_constant(state)) {
        (Some(left), Some(right)) if compares(opcode) => compared(opcode, left, right).ok(),
        _ => op.resolve_constant(state),
    };
    let sides = (makes || compares(opcode)).then(|| Box::new((opcode, left, right)));
    Ok(OperatorCall { op, sides, constant, quiet }.as_expr())
}

/// Fails where VRL would silently make text without limit, or a number that has wrapped around.
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

/// Whether the operator compares.
pub(super) fn compares(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Eq | Opcode::Ne | Opcode::Gt | Opcode::Ge | Opcode::Lt | Opcode::Le)
}

/// The result of a comparison.
fn compared(opcode: Opcode, left: Value, right: Value) -> Result<Value, String> {
    match opcode {
        Opcode::Eq => return Ok(same(&left, &right).into()),
        Opcode::Ne => return Ok((!same(&left, &right)).into()),
        _ => {}
    }
    if let Some(order) = order(&left, &right) {
        return Ok(Value::Boolean(match opcode {
            Opcode::Gt => order.is_gt(),
            Opcode::Ge => order.is_ge(),
            Opcode::Lt => order.is_lt(),
            _ => order.is_le(),
        }));
    }
    let result = match opcode {
        Opcode::Gt => left.try_gt(right),
        Opcode::Ge => left.try_ge(right),
        Opcode::Lt => left.try_lt(right),
        _ => left.try_le(right),
    };
    // VRL 0.38 gives this message for every comparison.
    result.map_err(|e| e.to_string().replace("can't calculate remainder of type", "can't compare type"))
}

/// An operator whose operand types never work together.
#[derive(Debug)]
struct Never {
    opcode: Opcode,
    left: Types,
    right: Types,
}

impl Never {
    fn new(opcode: Opcode, left: &Kind, right: &Kind) -> Option<Never> {
        // VRL's own timestamps, which its functions make, have rules of their own.
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
            // Anything may be compared with null: that asks whether something is there.
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

/// Runs the operator, and describes precisely what failed.
#[derive(Clone, Debug)]
struct OperatorCall {
    op: Op,
    /// The operands of `+`, `-` and `*`, whose result may be too large, and of comparisons.
    sides: Option<Box<(Opcode, Expr, Expr)>>,
    constant: Option<Value>,
    quiet: bool,
}

impl FunctionExpression for OperatorCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        if let Some((opcode, left, right)) = self.sides.as_deref() {
            let (left, right) = (left.resolve(cx)?, right.resolve(cx)?);
            if compares(*opcode) {
                return compared(*opcode, left, right).map_err(Into::into);
            }
            bounded(*opcode, &left, &right)?;
            let result = match opcode {
                Opcode::Add => left.try_add(right),
                Opcode::Sub => left.try_sub(right),
                _ => left.try_mul(right),
            };
            return result.map_err(Into::into);
        }
        self.op.resolve(cx)
    }
    fn type_def(&self, state: &TypeState) -> TypeDef {
        let result = Expression::type_def(&self.op, state);
        // Too long a text from `*` is a failure that the program may handle. If VRL has no such failure, ours ends the
        // expression.
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
