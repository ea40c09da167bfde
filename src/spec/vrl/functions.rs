//! The functions an expression may call: VRL's standard library without what is not pure, and a few of our own.
//!
//! An expression gives the same answer for the same record, on every machine and at every replay. So nothing here
//! reads a clock, randomness, the network, files or the environment, and nothing makes data out of a number alone.

use ::vrl::compiler::expression::Op;
use ::vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext};
use ::vrl::compiler::value::kind;
use ::vrl::compiler::{
    Context, Expression, ExpressionError, Function, FunctionExpression, Parameter, Resolved, TypeDef,
    TypeState,
};
use ::vrl::diagnostic::{DiagnosticMessage, Label, Span};
use ::vrl::parser::ast::{Node, Opcode};
use ::vrl::value::Kind;
use ::vrl::value::kind::Collection;

use super::kinds::types_of;
use crate::model::Types;

/// Functions that are left out, whether or not the crate's features bring them.
pub const DENIED: &[&str] = &[
    // the clock (the last three take the year from it)
    "now",
    "uuid_v7",
    "parse_klog",
    "parse_linux_authorization",
    "parse_syslog",
    // randomness
    "random_bool",
    "random_bytes",
    "random_float",
    "random_int",
    "uuid_v4",
    // environment, system, files
    "get_env_var",
    "get_hostname",
    "get_timezone_name",
    "log",
    "encode_proto",
    "parse_proto",
    "parse_etld",
    "validate_json_schema",
    "encrypt",
    "encrypt_ip",
    "decrypt",
    "decrypt_ip",
    // network
    "dns_lookup",
    "reverse_dns",
    "http_request",
    // memory without bound, from a number
    "range",
];

/// The closed list.
pub(super) fn functions() -> Vec<Box<dyn Function>> {
    let mut list: Vec<Box<dyn Function>> =
        ::vrl::stdlib::all().into_iter().filter(|f| !DENIED.contains(&f.identifier())).collect();
    list.extend(OPERATORS.iter().map(|(_, name)| Box::new(Operator(name)) as Box<dyn Function>));
    list.extend(CHECKS.iter().map(|(name, kind)| Box::new(Check(name, *kind)) as Box<dyn Function>));
    list.push(Box::new(Maybe));
    list
}

/// Operators as functions. As a function, an operator can be called with `!`: then its failure is an error of the
/// record instead of one of the program. The names cannot be written by a user.
const OPERATORS: [(Opcode, &str); 12] = [
    (Opcode::Mul, "$multiply"),
    (Opcode::Div, "$divide"),
    (Opcode::Add, "$add"),
    (Opcode::Sub, "$subtract"),
    (Opcode::Or, "$or"),
    (Opcode::And, "$and"),
    (Opcode::Ne, "$not_equal"),
    (Opcode::Eq, "$equal"),
    (Opcode::Ge, "$at_least"),
    (Opcode::Gt, "$greater"),
    (Opcode::Le, "$at_most"),
    (Opcode::Lt, "$less"),
];

/// The function that does what the operator does; none for `??` and `|`.
pub(super) fn operator(opcode: Opcode) -> Option<&'static str> {
    OPERATORS.iter().find(|(o, _)| *o == opcode).map(|(_, name)| *name)
}

#[derive(Debug)]
struct Operator(&'static str);

impl Function for Operator {
    fn identifier(&self) -> &'static str {
        self.0
    }
    fn usage(&self) -> &'static str {
        "an operator whose failure is an error of the record"
    }
    fn category(&self) -> &'static str {
        "Number"
    }
    fn return_kind(&self) -> u16 {
        kind::ANY
    }
    fn examples(&self) -> &'static [Example] {
        &[]
    }
    fn parameters(&self) -> &'static [Parameter] {
        const PARAMETERS: &[Parameter] = &[
            Parameter::required("left", kind::ANY, "left of the operator"),
            Parameter::required("right", kind::ANY, "right of the operator"),
        ];
        PARAMETERS
    }
    fn compile(
        &self,
        state: &TypeState,
        cx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let span: Span = cx.span();
        let opcode = OPERATORS.iter().find(|(_, name)| *name == self.0).map_or(Opcode::Eq, |(o, _)| *o);
        let kind = |name| arguments.required_expr(name).type_def(state).kind().clone();
        if let Some(never) = Never::new(opcode, &kind("left"), &kind("right"), span) {
            return Err(Box::new(never));
        }
        let side = |name| Node::new(span, arguments.required_expr(name));
        let op = Op::new(side("left"), Node::new(span, opcode), side("right"), state)
            .map_err(|e| Box::new(e) as Box<dyn DiagnosticMessage>)?;
        Ok(OperatorCall(op).as_expr())
    }
}

/// An operator between types that it can never work with.
#[derive(Debug)]
struct Never {
    opcode: Opcode,
    left: Types,
    right: Types,
    span: Span,
}

impl Never {
    fn new(opcode: Opcode, left: &Kind, right: &Kind, span: Span) -> Option<Never> {
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
            Opcode::Or | Opcode::Eq | Opcode::Ne | Opcode::Err | Opcode::Merge => true,
        };
        (!possible).then_some(Never { opcode, left, right, span })
    }
}

impl std::fmt::Display for Never {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` never works between {} and {}", self.opcode, self.left, self.right)
    }
}

impl std::error::Error for Never {}

impl DiagnosticMessage for Never {
    /// None of VRL's own: nothing that can be answered by calling it with `!`.
    fn code(&self) -> usize {
        9001
    }
    fn labels(&self) -> Vec<Label> {
        vec![Label::primary(format!("{} and {}", self.left, self.right), self.span)]
    }
}

/// Runs the operator; says in a failure what really failed.
#[derive(Clone, Debug)]
struct OperatorCall(Op);

impl FunctionExpression for OperatorCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        self.0.resolve(cx).map_err(|error| match error {
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
        Expression::type_def(&self.0, state)
    }
}

/// Functions that refuse every type but their own: what VRL's own do, but with that type declared, so that a type which can
/// never fit stays an error of the file.
const CHECKS: [(&str, u16); 4] = [
    ("$boolean", kind::BOOLEAN),
    ("$object", kind::OBJECT),
    ("$string", kind::BYTES),
    ("$collection", kind::CONTAINER),
];

#[derive(Debug)]
struct Check(&'static str, u16);

impl Function for Check {
    fn identifier(&self) -> &'static str {
        self.0
    }
    fn usage(&self) -> &'static str {
        "its argument, which must be of one type"
    }
    fn category(&self) -> &'static str {
        "Type"
    }
    fn return_kind(&self) -> u16 {
        self.1
    }
    fn examples(&self) -> &'static [Example] {
        &[]
    }
    fn parameters(&self) -> &'static [Parameter] {
        const BOOLEAN: &[Parameter] = &[Parameter::required("value", kind::BOOLEAN, "a boolean")];
        const OBJECT: &[Parameter] = &[Parameter::required("value", kind::OBJECT, "an object")];
        const COLLECTION: &[Parameter] =
            &[Parameter::required("value", kind::CONTAINER, "an object or an array")];
        const STRING: &[Parameter] = &[Parameter::required("value", kind::BYTES, "text")];
        match self.1 {
            kind::BOOLEAN => BOOLEAN,
            kind::OBJECT => OBJECT,
            kind::CONTAINER => COLLECTION,
            _ => STRING,
        }
    }
    fn compile(&self, _: &TypeState, _: &mut FunctionCompileContext, arguments: ArgumentList) -> Compiled {
        Ok(CheckCall(self.1, arguments.required("value")).as_expr())
    }
}

#[derive(Clone, Debug)]
struct CheckCall(u16, Box<dyn Expression>);

impl FunctionExpression for CheckCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let value = self.1.resolve(cx)?;
        let (fits, expected) = match self.0 {
            kind::BOOLEAN => (value.is_boolean(), "boolean"),
            kind::OBJECT => (value.is_object(), "object"),
            kind::CONTAINER => (value.is_object() || value.is_array(), "object or array"),
            _ => (value.is_bytes(), "string"),
        };
        if fits { Ok(value) } else { Err(format!("expected {expected}, got {}", value.kind_str()).into()) }
    }
    fn type_def(&self, state: &TypeState) -> TypeDef {
        match self.0 {
            kind::BOOLEAN => TypeDef::boolean().fallible(),
            kind::OBJECT => {
                let known = self.1.type_def(state).kind().as_object().cloned();
                TypeDef::object(known.unwrap_or_else(Collection::any)).fallible()
            }
            kind::CONTAINER => {
                let any = Kind::object(Collection::any()).or_array(Collection::any());
                TypeDef::from(any).fallible()
            }
            _ => TypeDef::bytes().fallible(),
        }
    }
}

/// The name of the function that returns its argument but counts as one that may fail.
pub(super) const MAYBE: &str = "$maybe";

#[derive(Debug)]
struct Maybe;

impl Function for Maybe {
    fn identifier(&self) -> &'static str {
        MAYBE
    }
    fn usage(&self) -> &'static str {
        "its argument, as something that may fail"
    }
    fn category(&self) -> &'static str {
        "Type"
    }
    fn return_kind(&self) -> u16 {
        kind::ANY
    }
    fn examples(&self) -> &'static [Example] {
        &[]
    }
    fn parameters(&self) -> &'static [Parameter] {
        const PARAMETERS: &[Parameter] = &[Parameter::required("value", kind::ANY, "any value")];
        PARAMETERS
    }
    fn compile(&self, _: &TypeState, _: &mut FunctionCompileContext, arguments: ArgumentList) -> Compiled {
        Ok(MaybeCall(arguments.required("value")).as_expr())
    }
}

#[derive(Clone, Debug)]
struct MaybeCall(Box<dyn Expression>);

impl FunctionExpression for MaybeCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        self.0.resolve(cx)
    }
    fn type_def(&self, state: &TypeState) -> TypeDef {
        self.0.type_def(state).fallible()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_functions_is_closed() {
        let names: Vec<_> = functions().iter().map(|f| f.identifier()).collect();
        for denied in DENIED {
            assert!(!names.contains(denied), "{denied}");
        }
        let telling = ["random", "uuid_v", "http", "dns", "env", "host", "now", "log"];
        for name in names.iter().filter(|n| telling.iter().any(|t| n.split('_').any(|part| part == *t))) {
            let known = ["parse_apache_log", "parse_common_log", "parse_nginx_log", "parse_aws_alb_log"];
            let more = ["parse_aws_cloudwatch_log_subscription_message", "parse_aws_vpc_flow_log"];
            assert!(known.contains(name) || more.contains(name), "{name}: pure?");
        }
        // An upgrade that adds a function stops here: look at it, then allow or deny it.
        let own = OPERATORS.len() + CHECKS.len() + 1;
        assert_eq!(names.len() - own, 170, "{names:?}");
    }
}
