//! The functions that an expression may call: VRL's standard library without those that are not pure, and a few of our
//! own.
//!
//! An expression must give the same answer for the same record on every machine and at every replay. So no function
//! here reads a clock, random numbers, the network, files or the environment; those that make as much data as a number
//! says are limited (`bounds`).

use ::vrl::compiler::value::kind;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::value::kind::Collection;
use ::vrl::value::{Kind, Value};

use super::memo::Remembering;
use super::own::Own;
use super::text::texts;
use super::users::OwnFunction;
use super::{bounds, equal, operators, replace};

/// Functions that are left out, even if the crate has them.
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

/// All functions that an expression may call; `own` are those of a user's crate.
pub(super) fn functions(own: &[OwnFunction]) -> Vec<Box<dyn Function>> {
    let mut list: Vec<Box<dyn Function>> =
        ::vrl::stdlib::all().into_iter().filter(|f| !DENIED.contains(&f.identifier())).collect();
    for function in &mut list {
        if function.identifier() == replace::NAME {
            *function = replace::function(function.parameters());
        }
        if let Some(own) = equal::replaced(function.identifier(), function.parameters()) {
            *function = own;
        }
    }
    list.extend(operators::functions());
    list.extend(bounds::functions());
    list.extend(texts());
    list.extend(checks().chain(same()));
    list.extend(own.iter().map(OwnFunction::in_vrl));
    list.into_iter().map(|function| Box::new(Remembering(function)) as Box<dyn Function>).collect()
}

/// Functions that refuse every type but their own, as VRL's own do. Unlike those, they declare that type, so that an
/// argument whose type can never fit is still an error of the file.
const CHECKS: [(&str, u16, &[Parameter]); 4] = [
    ("$boolean", kind::BOOLEAN, &[Parameter::required("value", kind::BOOLEAN, "a boolean")]),
    ("$object", kind::OBJECT, &[Parameter::required("value", kind::OBJECT, "an object")]),
    ("$string", kind::BYTES, &[Parameter::required("value", kind::BYTES, "text")]),
    (
        "$collection",
        kind::CONTAINER,
        &[Parameter::required("value", kind::CONTAINER, "an object or an array")],
    ),
];

fn checks() -> impl Iterator<Item = Box<dyn Function>> {
    CHECKS.iter().map(|(name, kind, parameters)| {
        Own::boxed(name, parameters, move |_, _, all| Ok(CheckCall(*kind, all.required("value")).as_expr()))
    })
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

/// The name of a function that returns its argument but counts as one that may fail.
pub(super) const MAYBE: &str = "$maybe";
/// The name of a function that returns its argument. As with every function, the result's size is checked (`memo`).
pub(super) const KEPT: &str = "$kept";

fn same() -> impl Iterator<Item = Box<dyn Function>> {
    const PARAMETERS: &[Parameter] = &[Parameter::required("value", kind::ANY, "any value")];
    [(MAYBE, true), (KEPT, false)].into_iter().map(|(name, may_fail)| {
        Own::boxed(name, PARAMETERS, move |state, _, all| {
            let value = all.required("value");
            let constant = value.resolve_constant(state);
            Ok(SameCall { value, constant, may_fail }.as_expr())
        })
    })
}

#[derive(Clone, Debug)]
struct SameCall {
    value: Box<dyn Expression>,
    constant: Option<Value>,
    may_fail: bool,
}

impl FunctionExpression for SameCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        self.value.resolve(cx)
    }
    fn type_def(&self, state: &TypeState) -> TypeDef {
        let same = self.value.type_def(state);
        if self.may_fail { same.fallible() } else { same }
    }
    fn as_value(&self) -> Option<Value> {
        self.constant.clone().filter(|_| !self.may_fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_functions_is_closed() {
        let names: Vec<_> = functions(&[]).iter().map(|f| f.identifier()).collect();
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
        let own =
            operators::functions().count() + bounds::functions().len() + CHECKS.len() + 2 + texts().count();
        assert_eq!(names.len() - own, 170, "{names:?}");
    }
}
