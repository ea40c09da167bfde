//! Expressions that need a language: compiled with VRL when the file is loaded, run once per record.
//!
//! Called by `spec/` for every expression that is not bare. The one home of the crate `vrl`. In an expression `.` is the
//! record's value, of any type; `key`, `timestamp`, `headers`, `window` and the node's own names are variables; the
//! result is the value of the last line. Which functions there are: `functions`. Syntax errors, unknown functions and
//! types that can never fit are problems of the file; anything that fails at run time is an [`EvalError`] of its record
//! (`rewrite` says how). Dates without a zone are UTC.

mod functions;
mod kinds;
mod rewrite;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ::vrl::compiler::runtime::{Runtime, Terminate};
use ::vrl::compiler::state::{ExternalEnv, LocalEnv};
use ::vrl::compiler::{CompileConfig, Compiler, Program, TargetValueRef, TimeZone, TypeState};
use ::vrl::diagnostic::{Diagnostic, DiagnosticList};
use ::vrl::parser::{self, ast};
use ::vrl::path::{OwnedSegment, OwnedTargetPath, PathPrefix};
use ::vrl::value::kind::Collection;
use ::vrl::value::{KeyString, Secrets, Value as Vrl};
use serde::Deserialize;

pub use ::vrl::value::Kind;
pub use functions::DENIED;
pub use kinds::{element, kind_of, object, types_of, with_field};
use rewrite::Fixes;

use super::problem::{Problem, near};
use crate::model::expr::parse_path;
use crate::model::{EvalError, Expr, Function, Json, Scope, Value, Yields, pick};

/// Every fix answers complaints one level further out; deeper than this is no expression.
const ROUNDS_MAX: usize = 64;
/// The names that every expression has.
const NAMES: [&str; 4] = ["key", "timestamp", "headers", "window"];

/// Compiles expressions. Holds the closed list of functions and the file's text, which places in an expression are
/// mapped to.
pub struct VrlCompiler {
    functions: Vec<Box<dyn ::vrl::compiler::Function>>,
    source: String,
}

impl VrlCompiler {
    /// A compiler for the expressions of a file with this text (empty: places are those of whole expressions).
    #[must_use]
    pub fn new(source: impl Into<String>) -> VrlCompiler {
        VrlCompiler { functions: functions::functions(), source: source.into() }
    }

    /// Compiles an expression that stands at `span` of the file and may read `vars` besides the names that all have.
    ///
    /// # Errors
    /// The text is no expression, calls an unknown function, or has types that can never fit.
    pub fn compile(
        &self,
        text: &str,
        span: Option<Range<usize>>,
        vars: &[&str],
    ) -> Result<Arc<dyn Function>, Problem> {
        self.compile_typed(text, span, vars, &Kind::any()).map(|(function, _)| function)
    }

    /// [`VrlCompiler::compile`] for values of this kind; also the kind of the result.
    ///
    /// # Errors
    /// The same, and a field is named that the values do not have.
    pub fn compile_typed(
        &self,
        text: &str,
        span: Option<Range<usize>>,
        vars: &[&str],
        value: &Kind,
    ) -> Result<(Arc<dyn Function>, Kind), Problem> {
        if !value.is_any() {
            // A field that is not there first: what follows from that says less.
            let (program, _) = self.program(text, span.as_ref(), vars, &Kind::any())?;
            if let Some(missing) = kinds::missing_in(&program, value) {
                return Err(self.missing(text, span.as_ref(), missing));
            }
        }
        let (program, used) = self.program(text, span.as_ref(), vars, value)?;
        let result = program.final_type_info().result.kind().clone();
        Ok((Arc::new(Compiled::new(program, text, &used)), result))
    }

    /// The program, and which of the names it uses.
    fn program<'v>(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        vars: &[&'v str],
        value: &Kind,
    ) -> Result<(Program, Vec<&'v str>), Problem> {
        let used: Vec<&str> = NAMES.iter().chain(vars).copied().filter(|name| mentions(text, name)).collect();
        let refused = |list: &DiagnosticList, fixes: &Fixes| self.problem(text, span, vars, list, fixes);
        let program = parser::parse(shielded(text)).map_err(|error| {
            let error: Box<dyn ::vrl::diagnostic::DiagnosticMessage> = Box::new(error);
            refused(&DiagnosticList::from(vec![error]), &Fixes::default())
        })?;
        let mut fixes = Fixes::default();
        let mut program_text = with_names(fixes.apply(program.clone()), &used);
        for round in 0..ROUNDS_MAX {
            let state = state(&used, value);
            match Compiler::compile(&self.functions, program_text, &state, CompileConfig::default()) {
                Ok(compiled) => return Ok((compiled.program, used)),
                Err(list) if fixes.learn(&list, round == 0) => {
                    program_text = with_names(fixes.apply(program.clone()), &used);
                }
                Err(list) => return Err(refused(&list, &fixes)),
            }
        }
        Err(refused(&DiagnosticList::default(), &fixes))
    }

    /// The kind of a bare expression, which needs no compiler.
    ///
    /// # Errors
    /// A field is named that the values do not have.
    fn bare_kind(&self, text: &str, span: Option<&Range<usize>>, value: &Kind) -> Result<Kind, Problem> {
        match text.trim() {
            "key" => return Ok(Kind::bytes().or_null()),
            "timestamp" => return Ok(Kind::integer()),
            _ => {}
        }
        if let Some(path) = parse_path(text) {
            return kinds::at(value, &path).map_err(|missing| self.missing(text, span, missing));
        }
        let literal = serde_json::from_str::<Json>(text).ok().and_then(|json| from_json(&json).ok());
        Ok(literal.map_or_else(Kind::any, Kind::from))
    }

    /// A field that is not there, framed in the file.
    fn missing(&self, text: &str, span: Option<&Range<usize>>, missing: kinds::Missing) -> Problem {
        let inside = text.find(&missing.path).map(|at| at..at + missing.path.len()).unwrap_or(0..text.len());
        let problem = Problem::new("expression", missing.message()).help(missing.help());
        match span {
            Some(span) => problem.at(self.place(text, span, inside), "not there"),
            None => problem,
        }
    }

    /// The first complaint as a problem, framed in the file.
    fn problem(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        vars: &[&str],
        list: &DiagnosticList,
        fixes: &Fixes,
    ) -> Problem {
        let Some(complaint) = list.iter().find(|d| d.is_problem()).map(|d| fixes.original(d)) else {
            return Problem::new("expression", format!("`{text}` cannot be compiled"));
        };
        let primary = complaint.labels.iter().find(|l| l.primary).or(complaint.labels.first());
        let inside = primary.map_or(0..text.len(), |l| l.span.range());
        let label = primary.map(|l| l.message.clone()).filter(|m| !m.is_empty());
        let label = label.unwrap_or_else(|| "here".into());
        let mut message = sentence(&complaint.message);
        // What a function of ours says of itself comes in a wrapping.
        if let Some((_, own)) = message.split_once("error[E9001] ") {
            message = own.to_owned();
        }
        let mut help = self.help(text, vars, complaint);
        let label = if message == "syntax error" {
            message = "the expression has a syntax error".into();
            help = help.or_else(|| Some("write it like `.amount > 10` or `{ \"id\": .id }`".into()));
            // VRL names its own token there.
            match text.get(inside.clone()).map(str::trim) {
                Some(token) if !token.is_empty() => format!("`{token}` is not expected here"),
                _ => "something is missing here".into(),
            }
        } else {
            label
        };
        let problem = Problem { help, ..Problem::new("expression", message) };
        match span {
            Some(span) => problem.at(self.place(text, span, inside), sentence(&label)),
            None => Problem { label: sentence(&label), ..problem },
        }
    }

    /// The complaint's other labels and its hints, without what is about our own functions.
    fn help(&self, text: &str, vars: &[&str], complaint: &Diagnostic) -> Option<String> {
        let named = complaint.labels.iter().find(|l| l.primary).and_then(|l| text.get(l.span.range()));
        if let Some(denied) = named.and_then(|name| DENIED.iter().find(|d| **d == name)) {
            let instead = if *denied == "now" { "; the record's time is `timestamp`" } else { "" };
            return Some(format!(
                "`{denied}` is left out: an expression only depends on its record{instead}"
            ));
        }
        if complaint.message == "call to undefined variable"
            && let Some(name) = named
        {
            let known: Vec<&str> = NAMES.iter().chain(vars).copied().collect();
            return Some(match near(name, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("a field of the value begins with a dot: `.{name}`"),
            });
        }
        let labels = complaint.labels.iter().skip(1).map(|l| l.message.clone());
        let notes = complaint.notes.iter().map(ToString::to_string);
        let mut lines: Vec<String> = labels
            .chain(notes.map(|n| n.trim().trim_start_matches("hint: ").to_owned()))
            .filter(|line| {
                !["see ", "learn more", "try your code", "expected one of"]
                    .iter()
                    .any(|p| line.starts_with(p))
            })
            .filter(|line| !line.is_empty() && !line.contains('$'))
            .collect();
        lines.dedup();
        (!lines.is_empty()).then(|| lines.join("; ").replace(TIMESTAMP, "timestamp"))
    }

    /// Where in the file a range of the expression is; the whole expression where the file writes it differently.
    fn place(&self, text: &str, span: &Range<usize>, inside: Range<usize>) -> Range<usize> {
        let Some(written) = self.source.get(span.clone()) else { return span.clone() };
        let inside =
            inside.start.min(text.len())..inside.end.clamp(inside.start, text.len().max(inside.start));
        // Plain, simply quoted, or inside `{{ }}`.
        if let Some(at) = written.find(text) {
            return span.start + at + inside.start..span.start + at + inside.end.min(text.len());
        }
        // A block: the same lines, indented.
        let (mut from, mut start) = (0, span.start);
        for (line, written) in text.split_inclusive('\n').zip(written.split_inclusive('\n')) {
            let (line_text, written_text) = (line.trim_end(), written.trim_end());
            let Some(indent) = written_text.find(line_text.trim_start()) else { break };
            let own = line_text.len() - line_text.trim_start().len();
            if inside.start < from + line.len() {
                let shift = |at: usize| (start + indent + at.saturating_sub(from)).saturating_sub(own);
                return shift(inside.start)..shift(inside.end.min(from + line_text.len()));
            }
            (from, start) = (from + line.len(), start + written.len());
        }
        span.clone()
    }
}

/// Compiles the expression in place; nothing to do where it is bare or native.
pub fn compile_expr(expr: &mut Expr, compiler: &VrlCompiler, vars: &[&str], problems: &mut Vec<Problem>) {
    if expr.is_compiled() {
        return;
    }
    match compiler.compile(expr.text(), expr.span(), vars) {
        Ok(function) => expr.compile_with(function),
        Err(problem) => problems.push(problem),
    }
}

/// Compiles the expression in place for values of this kind, and remembers what its result may be; the kind of that.
/// A bare expression is compiled already, but may name a field that is not there.
pub fn compile_typed(
    expr: &mut Expr,
    compiler: &VrlCompiler,
    vars: &[&str],
    value: &Kind,
    problems: &mut Vec<Problem>,
) -> Kind {
    let result = if expr.is_compiled() {
        compiler.bare_kind(expr.text(), expr.span().as_ref(), value)
    } else {
        compiler.compile_typed(expr.text(), expr.span(), vars, value).map(|(function, kind)| {
            expr.compile_with(function);
            kind
        })
    };
    match result {
        Ok(kind) => {
            expr.set_types(types_of(&kind));
            kind
        }
        Err(problem) => {
            problems.push(problem);
            Kind::any()
        }
    }
}

/// A compiled program and what it reads.
struct Compiled {
    program: Program,
    /// Each with the fields of it that are read; `None`: maybe all.
    names: Vec<(String, Option<Vec<String>>)>,
    reads_value: bool,
    /// The fields of the value that are read, where only fields are.
    fields: Option<Vec<String>>,
    yields: Yields,
    zone: TimeZone,
}

impl Compiled {
    fn new(program: Program, text: &str, used: &[&str]) -> Compiled {
        let info = program.info();
        let mut paths = info.target_queries.iter().chain(&info.target_assignments);
        let reads_value = paths.any(|path| path.prefix == PathPrefix::Event);
        let zone = TimeZone::parse("UTC").unwrap_or_default();
        let yields = yields(program.final_type_info().result.kind());
        let names = used.iter().map(|&n| (n.to_owned(), fields_named(text, n))).collect();
        let fields =
            info.target_assignments.is_empty().then(|| fields_queried(&info.target_queries)).flatten();
        Compiled { names, reads_value, fields, yields, zone, program }
    }
}

/// What VRL knows about a result, as JSON. What never ends well (`abort`) may be anything.
fn yields(kind: &Kind) -> Yields {
    let kinds = [
        (kind.contains_null() || kind.contains_undefined(), Yields::NULL),
        (kind.contains_boolean(), Yields::BOOLEAN),
        (kind.contains_integer() || kind.contains_float(), Yields::NUMBER),
        (kind.contains_bytes() || kind.contains_timestamp() || kind.contains_regex(), Yields::TEXT),
        (kind.contains_array(), Yields::LIST),
        (kind.contains_object(), Yields::OBJECT),
    ];
    let known = kinds.into_iter().filter(|(has, _)| *has).map(|(_, yields)| yields);
    known.reduce(Yields::or).unwrap_or(Yields::ANY)
}

/// The fields of the value that these paths begin with; `None` where one is not a field.
fn fields_queried(paths: &[OwnedTargetPath]) -> Option<Vec<String>> {
    let mut fields: Vec<String> = Vec::new();
    for path in paths.iter().filter(|path| path.prefix == PathPrefix::Event) {
        match path.path.segments.first() {
            Some(OwnedSegment::Field(name)) => fields.push(name.as_str().to_owned()),
            _ => return None,
        }
    }
    fields.sort();
    fields.dedup();
    Some(fields)
}

/// The fields of a name, where the text never has the name without `.field` after it; `None`: it may be read whole.
fn fields_named(text: &str, name: &str) -> Option<Vec<String>> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'@' || !b.is_ascii();
    let bytes = text.as_bytes();
    let mut fields: Vec<String> = Vec::new();
    for (at, _) in text.match_indices(name) {
        let end = at + name.len();
        if at > 0 && is_word(bytes[at - 1]) || bytes.get(end).is_some_and(|b| is_word(*b)) {
            continue;
        }
        let rest = bytes[end..].strip_prefix(b".")?;
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let starts = rest.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
        if !starts || rest.get(length).is_some_and(|b| is_word(*b)) {
            return None;
        }
        fields.push(text[end + 1..end + 1 + length].to_owned());
    }
    fields.sort();
    fields.dedup();
    Some(fields)
}

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(Runtime::default());
}

impl Function for Compiled {
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        // A value that is never looked at need not be JSON.
        let mut value =
            if self.reads_value { vrl_value(scope.value, self.fields.as_deref())? } else { Vrl::Null };
        let mut names = BTreeMap::new();
        for (name, _) in &self.names {
            names.insert(KeyString::from(name.as_str()), named(scope, name)?);
        }
        let mut metadata = Vrl::Object(names);
        let mut secrets = Secrets::new();
        let mut target = TargetValueRef { value: &mut value, metadata: &mut metadata, secrets: &mut secrets };
        let result = RUNTIME.with_borrow_mut(|runtime| {
            let result = runtime.resolve(&mut target, &self.program, &self.zone);
            runtime.clear();
            result
        });
        match result {
            Ok(value) => json(value),
            Err(Terminate::Interrupted) => Err(EvalError("the expression was interrupted".into())),
            Err(Terminate::Abort(e) | Terminate::Error(e)) => Err(EvalError(without_places(&e.to_string()))),
        }
    }

    fn yields(&self) -> Yields {
        self.yields
    }

    fn reads_value(&self) -> bool {
        self.reads_value
    }

    fn fields_of(&self, name: &str) -> Option<&[String]> {
        self.names.iter().find(|(n, _)| n == name).map_or(Some(&[]), |(_, fields)| fields.as_deref())
    }
}

/// The value of a name in this scope.
fn named(scope: &Scope<'_>, name: &str) -> Result<Vrl, EvalError> {
    Ok(match name {
        "key" => scope.key.map_or(Vrl::Null, |key| Vrl::from(String::from_utf8_lossy(key).as_ref())),
        "timestamp" => Vrl::Integer(scope.ts.0),
        "headers" => {
            let text = |bytes: &bytes::Bytes| Vrl::from(String::from_utf8_lossy(bytes).as_ref());
            Vrl::Object(
                scope.headers.iter().map(|(name, bytes)| (KeyString::from(name), text(bytes))).collect(),
            )
        }
        "window" => scope.window.map_or(Vrl::Null, |window| {
            let ends = [("start", window.start.0), ("end", window.end.0)];
            Vrl::Object(ends.into_iter().map(|(n, at)| (KeyString::from(n), Vrl::Integer(at))).collect())
        }),
        _ => match scope.vars.iter().find(|(var, _)| *var == name) {
            Some((_, json)) => from_json(json)?,
            None => Vrl::Null,
        },
    })
}

fn vrl_value(value: &Value, fields: Option<&[String]>) -> Result<Vrl, EvalError> {
    match value {
        Value::Null => Ok(Vrl::Null),
        Value::Bytes(bytes) => {
            if let Some(fields) = fields
                && let Some(found) = pick::<Vrl>(bytes, fields)
                    .map_err(|e| EvalError(format!("the value is not JSON: {e}")))?
            {
                let named = fields.iter().zip(found).filter_map(|(name, value)| Some((name, value?)));
                return Ok(Vrl::Object(named.map(|(n, v)| (KeyString::from(n.as_str()), v)).collect()));
            }
            serde_json::from_slice(bytes).map_err(|e| EvalError(format!("the value is not JSON: {e}")))
        }
        Value::Json(json) => from_json(json),
    }
}

fn from_json(json: &Json) -> Result<Vrl, EvalError> {
    Vrl::deserialize(json).map_err(|e| EvalError(e.to_string()))
}

/// The result as JSON. Bytes that are not UTF-8 are replaced; a number that JSON cannot hold is an error.
fn json(value: Vrl) -> Result<Json, EvalError> {
    Ok(match value {
        Vrl::Null => Json::Null,
        Vrl::Boolean(b) => Json::Bool(b),
        Vrl::Integer(n) => Json::from(n),
        Vrl::Float(n) => serde_json::Number::from_f64(n.into_inner())
            .map(Json::Number)
            .ok_or_else(|| EvalError(format!("the result {n} is no JSON number")))?,
        Vrl::Bytes(bytes) => Json::String(String::from_utf8_lossy(&bytes).into_owned()),
        Vrl::Array(items) => Json::Array(items.into_iter().map(json).collect::<Result<_, _>>()?),
        Vrl::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Ok((name.to_string(), json(value)?)));
            Json::Object(fields.collect::<Result<_, EvalError>>()?)
        }
        other @ (Vrl::String(_) | Vrl::Timestamp(_) | Vrl::Regex(_)) => {
            serde_json::to_value(&other).map_err(|e| EvalError(e.to_string()))?
        }
    })
}

/// What VRL knows before the program starts: the value's type, and the names' types.
fn state(used: &[&str], value: &Kind) -> TypeState {
    let object = |fields: &[(&str, Kind)]| {
        let fields: BTreeMap<_, _> = fields.iter().map(|(n, kind)| ((*n).into(), kind.clone())).collect();
        Kind::object(Collection::from(fields))
    };
    let kinds: Vec<(&str, Kind)> = used
        .iter()
        .map(|&name| {
            let kind = match name {
                "key" => Kind::bytes().or_null(),
                "timestamp" => Kind::integer(),
                "headers" => Kind::object(Collection::any()),
                "window" => object(&[("start", Kind::integer()), ("end", Kind::integer())]).or_null(),
                _ => Kind::any(),
            };
            (name, kind)
        })
        .collect();
    TypeState {
        local: LocalEnv::default(),
        external: ExternalEnv::new_with_kind(value.clone(), object(&kinds)),
    }
}

/// The program after `name = %name` for every name it uses. Places of the program stay as they are.
fn with_names(program: ast::Program, used: &[&str]) -> ast::Program {
    let lines: String = used.iter().map(|name| format!("{} = %{name}\n", shielded(name))).collect();
    let mut all = parser::parse(&lines).map(|p| p.0).unwrap_or_default();
    all.extend(program.0);
    ast::Program(all)
}

/// VRL keeps the word `timestamp` for itself. As a variable it is written like this: as long, so that places stay.
const TIMESTAMP: &str = "timestam_";

/// The text with the variable `timestamp` under a name that VRL takes; strings, comments, fields and the function
/// `timestamp()` stay.
fn shielded(text: &str) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let literal = c == '"' || (c == '\'' && matches!(before, 's' | 'r' | 't'));
        let end = if literal {
            let mut escaped = false;
            let inside = rest[1..].find(|d: char| {
                let closes = d == c && !escaped;
                escaped = d == '\\' && !escaped;
                closes
            });
            inside.map_or(rest.len(), |at| at + 2)
        } else if c == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if word(c) {
            rest.find(|d: char| !word(d)).unwrap_or(rest.len())
        } else {
            c.len_utf8()
        };
        let (part, tail) = rest.split_at(end);
        let is_call = tail.starts_with('(') || tail.starts_with("!(");
        let is_field = before == '.' || before == '@' || before == '%';
        out.push_str(if part == "timestamp" && !is_call && !is_field { TIMESTAMP } else { part });
        before = part.chars().next_back().unwrap_or(' ');
        rest = tail;
    }
    out
}

/// Does the text have this word where a variable may stand?
fn mentions(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(|c| word(c) || c == '.') && !after.is_some_and(word)
    })
}

/// VRL's run-time message without places, which count from the expression's start.
/// `function call error for "upcase" at (0:13): expected string` becomes `upcase: expected string`.
fn without_places(message: &str) -> String {
    let Some(rest) = message.strip_prefix("function call error for \"") else { return message.to_owned() };
    let parts = rest.split_once('"').and_then(|(name, rest)| Some((name, rest.split_once("): ")?.1)));
    match parts {
        Some((name, rest)) if name.starts_with('$') => without_places(rest),
        Some((name, rest)) => format!("{name}: {}", without_places(rest)),
        None => message.to_owned(),
    }
}

/// The first line, trimmed.
fn sentence(text: &str) -> String {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("").replace(TIMESTAMP, "timestamp")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Headers, Record, Timestamp, Window};

    #[test]
    fn a_name_is_read_whole_unless_only_its_fields_stand_in_the_text() {
        let check = |text: &str, want: Option<&[&str]>| {
            let want = want.map(|fields| fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
            assert_eq!(fields_named(text, "left"), want, "{text}");
        };
        check("left.a + left.b_2.c + left.a", Some(&["a", "b_2"]));
        check("{ \"leftover\": leftover, \"l\": aleft }", Some(&[]));
        check("left", None);
        check("{ \"a\": left, \"b\": left.b }", None);
        check("left[0]", None);
        check("left.\"odd name\"", None);
        check("left.a@b", None);
        check("\"left\" + left.a", None);
        check("x = left; x.a", None);
        check("merge(left, right)", None);
    }

    fn record() -> Record {
        let value = json!({
            "amount": 1500, "price": 2.5, "name": "ann", "flag": true, "none": null, "big": 18_446_744_073_709_551_615_u64,
            "items": [{"n": 1, "ok": true}, {"n": 2, "ok": false}], "at": "2024-01-02 03:04:05", "o": {"a": 1}
        });
        Record {
            window: Some(Window { start: Timestamp(0), end: Timestamp(5000) }),
            headers: Headers::new(vec![("trace".into(), "t1".into())]),
            ..Record::new("k1", Value::Bytes(value.to_string().into()), Timestamp(7))
        }
    }

    fn run(text: &str) -> Result<Json, String> {
        let compiler = VrlCompiler::new("");
        let function =
            compiler.compile(text, None, &["left", "acc", "value"]).map_err(|p| format!("{p:?}"))?;
        let vars = [("left", &json!({"id": 3})), ("acc", &json!(10))];
        function.eval(&Scope::of(&record()).with(&vars)).map_err(|e| e.0)
    }

    fn check(text: &str, expected: Json) {
        assert_eq!(run(text), Ok(expected), "{text}");
    }

    #[test]
    fn names_and_values_are_read() {
        check("upcase(key)", json!("K1"));
        check("key + \"!\"", json!("k1!"));
        check("timestamp + 5", json!(12));
        check(
            "{ \"timestamp\": timestamp, \"a\": .timestamp } # timestamp",
            json!({"timestamp": 7, "a": null}),
        );
        check("s'timestamp\\' timestamp'", json!("timestamp\\' timestamp"));
        check("to_unix_timestamp(timestamp!(from_unix_timestamp!(timestamp)))", json!(7));
        check("headers.trace", json!("t1"));
        check("window.end - window.start", json!(5000));
        check("left.id", json!(3));
        check("acc + .amount", json!(1510));
        check("value", Json::Null);
        check("map_values({\"x\": 1}) -> |value| { value + 1 }", json!({"x": 2}));
        check(".missing", Json::Null);
        check(".price * 2", json!(5.0));
        check("\"hi {{ key }}\"", json!("hi k1"));
        check("name = .name\n\"hi {{ name }} {{ key }}\"", json!("hi ann k1"));
    }

    /// What VRL calls fallible compiles; a failure is an error of the record.
    #[test]
    fn an_expression_that_may_fail_runs() {
        check(".amount > 1000", json!(true));
        check(".amount > 1000 && .price < 3", json!(true));
        check(".flag && .amount >= .price", json!(true));
        check("(.amount + .price) * 2 > 3005.5", json!(false));
        check("{ \"x\": .amount + 1, \"y\": [.price - 0.5] }", json!({"x": 1501, "y": [2.0]}));
        check("upcase(.name)", json!("ANN"));
        check("upcase(.name + \"x\")", json!("ANNX"));
        check("to_int(.amount) + 1", json!(1501));
        check("push(.items, .amount * 2)[2]", json!(3000));
        check("length(.items) > 1", json!(true));
        check("if .flag { .amount / 3 } else { .nope + 1 }", json!(500.0));
        check("if .amount > 3 { \"big\" } else { \"small\" }", json!("big"));
        check("!.flag", json!(false));
        check(". | { \"x\": .amount + 1 } | { \"items\": null }", {
            let mut all = run(".").expect("is an object");
            all["x"] = json!(1501);
            all["items"] = Json::Null;
            all
        });
        check(".o |= { \"b\": 2 }\n.o", json!({"a": 1, "b": 2}));
        check(".x = .amount + 1\n.x", json!(1501));
        check("total = 0\nfor_each(.items) -> |_i, item| { total = total + item.n }\ntotal", json!(3));
        check("map_values(.items[0]) -> |v| { to_string(v) }", json!({"n": "1", "ok": "true"}));
        check("filter(.items) -> |_i, item| { item.ok }", json!([{"n": 1, "ok": true}]));
        check("filter(.items) -> |_i, item| { item.n > 1 }", json!([{"n": 2, "ok": false}]));
        check("map_values(.o) -> |v| { v + 1 }", json!({"a": 2}));
        check("parse_json(\"[1]\")[0]", json!(1));
        check("return .amount + 1", json!(1501));
        check("parse_timestamp(.at, \"%Y-%m-%d %H:%M:%S\")", json!("2024-01-02T03:04:05Z"));
        check(".big > 5", json!(true));
    }

    #[test]
    fn what_the_user_handles_stays_handled() {
        check("to_int(.name) ?? 0", json!(0));
        check(".name + 1 ?? 5", json!(5));
        check("upcase(.none + \"x\") ?? \"y\"", json!("X"));
        check("to_int(.name + \"x\") ?? 3", json!(3));
        check("(.none > 1) ?? false", json!(false));
        check("x, err = to_int(.name)\nif err != null { \"bad\" } else { x }", json!("bad"));
        check("x, err = upcase(.name + \"x\")\nx", json!("ANNX"));
        check("int(.name) ?? to_int(.name) ?? 9", json!(9));
    }

    fn fails(text: &str, part: &str) {
        let error = run(text).expect_err(text);
        assert!(error.contains(part) && !error.contains('$'), "{error}");
    }

    #[test]
    fn a_failure_is_an_error_of_the_record() {
        fails(".none > 1", "can't compare type null and integer");
        fails(".name - 1", "can't subtract");
        fails("upcase(.amount)", "upcase: expected string, got integer");
        fails("!.name", "expected boolean");
        fails("if .none { 1 }", "expected boolean");
        fails(".none | { \"x\": 1 }", "expected object");
        fails("abort string(.amount)", "string");
        fails("for_each(.name) -> |_k, _v| { 1 }", "object or array");
        fails("filter(.items) -> |_i, item| { item.n }", "expected boolean, got integer");
        fails(".amount / 0", "divide");
        fails("abort", "abort");
        fails("if .flag { abort \"not today\" }", "not today");
        fails("to_float(\"1e308\") * 10", "no JSON number");
    }

    #[test]
    fn a_value_that_is_not_json_fails_only_where_it_is_read() {
        let record = Record::new("k", Value::Bytes("{".into()), Timestamp(0));
        let compiler = VrlCompiler::new("");
        let eval = |text: &str| {
            let function = compiler.compile(text, None, &[]).expect("compiles");
            function.eval(&Scope::of(&record)).map_err(|e| e.0)
        };
        assert_eq!(eval("upcase(key)"), Ok(json!("K")));
        assert!(eval("upcase(.a)").expect_err("is no JSON").contains("not JSON"));
        assert!(eval("del(.a)").expect_err("is no JSON").contains("not JSON"));
    }

    #[test]
    fn a_local_does_not_outlive_its_record() {
        let compiler = VrlCompiler::new("");
        let function = compiler.compile("if .set == true { x = 1 }\nx = x ?? null\nx", None, &[]);
        assert!(function.is_err(), "`x` may be undefined");
        let text = "x = null\nif .set == true { x = 1 }\nx";
        let function = compiler.compile(text, None, &[]).expect("compiles");
        let of = |json| Record::new("k", Value::from(json), Timestamp(0));
        assert_eq!(function.eval(&Scope::of(&of(json!({"set": true})))), Ok(json!(1)));
        assert_eq!(function.eval(&Scope::of(&of(json!({"set": false})))), Ok(Json::Null));
    }

    /// A refused expression in a file: the text at its place, parts of its message, label and help.
    fn refused(line: &str, text: &str, at: &str, part: &str) {
        let file = format!("größe: 1\n{line}\nlast: 1\n");
        let root = super::super::tree::parse(&file).expect("is YAML");
        let span = root.get("x").expect("is there").span.clone();
        let Err(problem) = VrlCompiler::new(&file).compile(text, Some(span), &["left"]) else {
            panic!("{text} compiles")
        };
        let all = format!("{} | {} | {}", problem.message, problem.label, problem.help.unwrap_or_default());
        assert!(all.to_lowercase().contains(part), "{part:?} in {all:?}");
        assert!(!all.contains('$'), "{all}");
        assert_eq!(problem.span.map(|s| &file[s]), Some(at), "{all}");
    }

    #[test]
    fn a_bad_expression_is_framed_in_the_file() {
        refused("x: upcas(.name)", "upcas(.name)", "upcas", "did you mean \"upcase\"");
        refused("x: \"upcas(.name)\"", "upcas(.name)", "upcas", "undefined function");
        refused("x: '\"ü\" + upcas(.name)'", "\"ü\" + upcas(.name)", "upcas", "undefined function");
        refused(
            "x: |\n  a = 1\n  b = upcas(.name)\n  b",
            "a = 1\nb = upcas(.name)\nb\n",
            "upcas",
            "undefined",
        );
        refused(
            "x: |\n  if true {\n    upcas(.name)\n  }",
            "if true {\n  upcas(.name)\n}\n",
            "upcas",
            "undefined",
        );
        refused("x: 'a/{{ upcas(key) }}'", "upcas(key)", "upcas", "undefined function");
        refused("x: nam == 1", "nam == 1", "nam", "undefined variable");
        refused("x: .a >", ".a >", "", "");
        refused("x: upcase(3)", "upcase(3)", "3", "the exact type integer");
        refused("x: now()", "now()", "now", "the record's time is `timestamp`");
        refused("x: random_int(1, 2)", "random_int(1, 2)", "random_int", "left out");
        refused("x: if 3 { 1 }", "if 3 { 1 }", "3", "boolean");
        refused("x: '!5'", "!5", "!", "boolean");
        refused("x: 1 | .a", "1 | .a", "1", "object");
        refused("x: 'map_values(5) -> |v| { v }'", "map_values(5) -> |v| { v }", "5", "integer");
        refused("x: 1 ?? 2", "1 ?? 2", "1", "can't fail");
        refused("x: .a < .b < .c", ".a < .b < .c", "<", "chained");
        refused("x: upcase(.a, .b, .c)", "upcase(.a, .b, .c)", ".a, .b, .c", "too many");
        refused("x: \"a\\tupcas(1)\"", "a\tupcas(1)", "\"a\\tupcas(1)\"", "");
    }

    #[test]
    fn a_bare_expression_is_left_alone() {
        let (compiler, mut problems) = (VrlCompiler::new(""), Vec::new());
        let mut bare = Expr::new(".a.b", None);
        compile_expr(&mut bare, &compiler, &[], &mut problems);
        let mut other = Expr::new(".a > 1", None);
        compile_expr(&mut other, &compiler, &[], &mut problems);
        let mut broken = Expr::new("nope(", None);
        compile_expr(&mut broken, &compiler, &[], &mut problems);
        assert!(bare.is_compiled() && other.is_compiled() && !broken.is_compiled());
        assert_eq!(problems.len(), 1);
    }
}
