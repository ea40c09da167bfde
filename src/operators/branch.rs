//! `branch`: sends a record to the first output whose condition is true; a record that meets none goes nowhere.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::filter::{check_condition, compile_condition};
use super::settings::Exprs;
use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::expressions::{Kind, Typing};
use crate::model::{Expr, Problem, Record, Scope};

/// Outputs in order, each with its condition: `{ large: .amount > 1000, small: true }`, read as `from: NODE.large`.
#[derive(Clone, Debug, Default)]
pub struct BranchConfig(pub Vec<(String, Expr)>);

impl<'de> Deserialize<'de> for BranchConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = BranchConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outputs, each with a condition")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BranchConfig, A::Error> {
                let mut out = Vec::new();
                while let Some(pair) = map.next_entry::<String, Expr>()? {
                    out.push(pair);
                }
                Ok(BranchConfig(out))
            }
        }
        d.deserialize_map(Pairs)
    }
}

impl JsonSchema for BranchConfig {
    fn schema_name() -> Cow<'static, str> {
        "Branch".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let expr = generator.subschema_for::<Expr>();
        json_schema!({
            "description": "Output name: condition. The first that is true takes the record.",
            "type": "object", "additionalProperties": expr, "minProperties": 1
        })
    }
}

/// The operator: the outputs' conditions, asked in order.
pub struct Branch {
    conditions: Vec<Expr>,
}

impl Branch {
    /// A branch with those outputs.
    #[must_use]
    pub fn new(config: &BranchConfig) -> Branch {
        Branch { conditions: config.0.iter().map(|(_, e)| e.clone()).collect() }
    }
}

impl Operator for Branch {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let mut hit = None;
        for (port, condition) in self.conditions.iter().enumerate() {
            match condition.test(&Scope::of(&record)) {
                Ok(true) => {
                    hit = u16::try_from(port).ok();
                    break;
                }
                Ok(false) => {}
                Err(e) => return Err(OperatorError::expression(record, &e)),
            }
        }
        if let Some(port) = hit {
            cx.forward_to(port, record);
        }
        Ok(())
    }
}

impl OperatorSettings for BranchConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Branch::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn ports(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        self.0.iter_mut().map(|(_, e)| (e, &[] as &[&str])).collect()
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        for (_, condition) in &mut self.0 {
            compile_condition(condition, typing);
        }
        typing.value.clone()
    }
    fn check(&self) -> Vec<Problem> {
        if self.0.is_empty() {
            let help = "write `branch: { large: .amount > 1000, small: true }`";
            return vec![Problem::setting("", "no output", help)];
        }
        let mut problems = Vec::new();
        let mut all_taken: Option<&str> = None;
        for (name, condition) in &self.0 {
            let field = name.clone();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
                let help = "names have letters, digits, `-` or `_`; it is read as `from: NODE.NAME`";
                problems.push(Problem::setting(
                    field.clone(),
                    format!("`{name}` is no name of an output"),
                    help,
                ));
            }
            if let Some(before) = all_taken {
                let message = format!("no record gets here: `{before}` before it takes them all");
                problems.push(Problem::setting(field.clone(), message, format!("put `{before}: true` last")));
            }
            if condition.text().trim() == "true" {
                all_taken.get_or_insert(name);
            }
            problems.extend(check_condition(&field, condition));
        }
        problems
    }
}
