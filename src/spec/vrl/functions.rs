//! The functions an expression may call: VRL's standard library without what is not pure, and a few of our own.
//!
//! An expression gives the same answer for the same record, on every machine and at every replay. So nothing here
//! reads a clock, randomness, the network, files or the environment, and what makes data out of a number alone has a bound (`bounds`).

use ::vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext};
use ::vrl::compiler::value::kind;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::value::Kind;
use ::vrl::value::kind::Collection;

use super::memo::Remembering;
use super::{bounds, operators};

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
    list.extend(operators::functions());
    list.extend(bounds::functions());
    list.extend(CHECKS.iter().map(|(name, kind)| Box::new(Check(name, *kind)) as Box<dyn Function>));
    list.push(Box::new(Maybe));
    list.into_iter().map(|function| Box::new(Remembering(function)) as Box<dyn Function>).collect()
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
        let own = operators::functions().count() + bounds::functions().len() + CHECKS.len() + 1;
        assert_eq!(names.len() - own, 170, "{names:?}");
    }
}
