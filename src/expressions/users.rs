//! Functions of a user's own crate, as every expression may call them.
//!
//! Arguments and results are JSON. The compiler knows the types of both: an argument that can never fit is a problem of the
//! file; one that does not fit at run time, and an error that the function returns, are errors of the record.

use std::fmt;
use std::sync::Arc;

use ::vrl::compiler::value::kind;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::value::Kind;
use ::vrl::value::kind::Collection;

use super::compiled::{DEPTH_MAX, from_json, json};
use super::functions::functions;
use super::own::Own;
use super::{DENIED, NAMES};
use crate::model::{Json, Types};

/// The user's code: from arguments to a result, or a message.
type Call = dyn Fn(&[Json]) -> Result<Json, String> + Send + Sync;

/// A function of a user's own crate. It must be pure: the same arguments give the same result on every machine and at
/// every replay, so it reads no clock, random numbers, files or network.
#[derive(Clone)]
pub struct OwnFunction {
    name: &'static str,
    parameters: &'static [Parameter],
    takes: Arc<[Types]>,
    gives: Types,
    call: Arc<Call>,
}

impl OwnFunction {
    /// A function with these parameters, all of which must be given: their names, and the types that they may have.
    /// `gives`: the types that a result may have.
    ///
    /// # Panics
    /// The name is no name, or that of a function which expressions have already or may not have: a mistake in the program.
    #[must_use]
    pub fn new(
        name: &'static str,
        parameters: &[(&'static str, Types)],
        gives: Types,
        call: impl Fn(&[Json]) -> Result<Json, String> + Send + Sync + 'static,
    ) -> OwnFunction {
        for word in parameters.iter().map(|(name, _)| *name).chain([name]) {
            let begins = word.starts_with(|c: char| c.is_ascii_lowercase());
            let good = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            assert!(begins && good, "`{word}` is no name: lower-case letters, digits and `_`");
        }
        let known = functions(&[]).iter().any(|f| f.identifier() == name);
        assert!(!known && !DENIED.contains(&name) && !NAMES.contains(&name), "`{name}` is slackwater's own");
        let takes = parameters.iter().map(|(_, types)| *types).collect();
        let of = |(name, types): &(&'static str, Types)| Parameter::required(name, kind_bits(*types), "");
        // VRL keeps parameters for ever; there are as many as functions in the program.
        let parameters: Vec<Parameter> = parameters.iter().map(of).collect();
        let parameters = Box::leak(parameters.into_boxed_slice());
        OwnFunction { name, parameters, takes, gives, call: Arc::new(call) }
    }

    /// The name, as it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// As the compiler wants it.
    pub(super) fn in_vrl(&self) -> Box<dyn Function> {
        let own = self.clone();
        Own::boxed(self.name, self.parameters, move |_, _, all| {
            let arguments = own.parameters.iter().map(|p| all.required(p.keyword)).collect();
            Ok(OwnCall { own: own.clone(), arguments }.as_expr())
        })
    }
}

impl fmt::Debug for OwnFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[derive(Clone, Debug)]
struct OwnCall {
    own: OwnFunction,
    arguments: Vec<Box<dyn Expression>>,
}

impl FunctionExpression for OwnCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let own = &self.own;
        let mut arguments = Vec::with_capacity(self.arguments.len());
        for ((argument, types), parameter) in self.arguments.iter().zip(&*own.takes).zip(own.parameters) {
            let value = json(argument.resolve(cx)?, DEPTH_MAX).map_err(|e| e.to_string())?;
            fits(&value, *types)
                .map_err(|found| format!("`{}` has to be {types}, got {found}", parameter.keyword))?;
            arguments.push(value);
        }
        let result = (own.call)(&arguments)?;
        fits(&result, own.gives)
            .map_err(|found| format!("it gave {found}, and says that it gives {}", own.gives))?;
        from_json(&result).map_err(|e| e.to_string().into())
    }

    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::from(kind_of_types(self.own.gives)).fallible()
    }
}

/// The error is what it is instead.
fn fits(value: &Json, types: Types) -> Result<(), Types> {
    let found = Types::of(value);
    if types.may_be(found) { Ok(()) } else { Err(found) }
}

const KINDS: [(Types, u16); 7] = [
    (Types::NULL, kind::NULL),
    (Types::BOOLEAN, kind::BOOLEAN),
    (Types::INTEGER, kind::INTEGER),
    (Types::FLOAT, kind::FLOAT),
    (Types::STRING, kind::BYTES),
    (Types::ARRAY, kind::ARRAY),
    (Types::OBJECT, kind::OBJECT),
];

/// As a parameter's. A timestamp and a regular expression are text in JSON.
fn kind_bits(types: Types) -> u16 {
    let text = if types.may_be(Types::STRING) { kind::TIMESTAMP | kind::REGEX } else { 0 };
    KINDS.iter().filter(|(one, _)| types.may_be(*one)).fold(text, |bits, (_, bit)| bits | bit)
}

/// As a result's.
fn kind_of_types(types: Types) -> Kind {
    let kinds = [
        (Types::NULL, Kind::null()),
        (Types::BOOLEAN, Kind::boolean()),
        (Types::INTEGER, Kind::integer()),
        (Types::FLOAT, Kind::float()),
        (Types::STRING, Kind::bytes()),
        (Types::ARRAY, Kind::array(Collection::any())),
        (Types::OBJECT, Kind::object(Collection::any())),
    ];
    let any_of = kinds.into_iter().filter(|(one, _)| types.may_be(*one)).map(|(_, kind)| kind);
    any_of.reduce(|all, one| all.union(one)).unwrap_or_else(Kind::never)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{VrlCompiler, types_of};
    use super::*;
    use crate::model::{Record, Scope, Value};

    /// `initials("Ada Lovelace", 1)` is `"A"`.
    fn initials() -> OwnFunction {
        let parameters = [("name", Types::STRING), ("most", Types::INTEGER)];
        OwnFunction::new("initials", &parameters, Types::STRING, |arguments| {
            let most = arguments[1].as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("less than none")?;
            let words = arguments[0].as_str().unwrap_or_default().split(' ').take(most);
            Ok(words.filter_map(|word| word.chars().next()).collect::<String>().into())
        })
    }

    fn compile(text: &str) -> Result<Types, String> {
        let compiled = VrlCompiler::with("", &[initials()]).compile_typed(text, None, &[], &Kind::any());
        compiled.map(|(_, kind)| types_of(&kind)).map_err(|problem| problem.message)
    }

    fn eval(text: &str, value: Json) -> Result<Json, String> {
        let function = VrlCompiler::with("", &[initials()]).compile(text, None, &[]).expect("compiles");
        let record = Record { value: Value::from(value), ..Record::default() };
        let scope = Scope::of(&record);
        function.eval(&scope).map_err(|e| e.to_string())
    }

    #[test]
    fn it_is_called_as_every_function_is() {
        let ada = || json!({ "name": "Ada Lovelace", "n": 2 });
        assert_eq!(eval("initials(.name, .n)", ada()), Ok(json!("AL")));
        assert_eq!(eval("initials!(.name, most: 1)", ada()), Ok(json!("A")));
        assert_eq!(eval("initials(.name, -1) ?? \"none\"", ada()), Ok(json!("none")));
        assert_eq!(eval("{ \"i\": upcase(initials(.name, .n)) }", ada()), Ok(json!({ "i": "AL" })));
        assert_eq!(eval("initials(.name, -1)", ada()), Err("initials: less than none".into()));
        let wrong = eval("initials(.n, 1)", ada());
        assert_eq!(wrong, Err("initials: `name` has to be string, got integer".into()));
    }

    #[test]
    fn types_are_checked_when_it_is_compiled() {
        assert_eq!(compile("initials(.a, 1)"), Ok(Types::STRING));
        for wrong in
            ["initials(1, 1)", "initials(.a, \"x\")", "initials(.a)", "initials(.a, 1) > 5", "initals(.a, 1)"]
        {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_result_of_another_type_is_an_error_of_the_record() {
        let liar = OwnFunction::new("liar", &[], Types::INTEGER, |_| Ok(json!("text")));
        let function = VrlCompiler::with("", &[liar]).compile("liar()", None, &[]).expect("compiles");
        let record = Record::default();
        let scope = Scope::of(&record);
        let error = function.eval(&scope).expect_err("a lie").to_string();
        assert_eq!(error, "liar: it gave string, and says that it gives integer");
    }

    #[test]
    #[should_panic(expected = "`upcase` is slackwater's own")]
    fn a_name_has_one_meaning() {
        drop(OwnFunction::new("upcase", &[], Types::NULL, |_| Ok(Json::Null)));
    }
}
