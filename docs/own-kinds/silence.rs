//! An operator of one's own: the settings, read from YAML and asked by the topology, and the work of one task.

use serde::Deserialize;
use serde_json::json;
use slackwater::model::{Expr, Millis, Problem, Reason, Record, Scope, Timestamp, Value};
use slackwater::operators::OperatorError;
use slackwater::operators::custom::{CustomOperator, Processor, ProcessorCx, Punctuator};

/// `silence: { after: 30s, summary: 1m }`: says when a machine has not been heard of, and now and then how many have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// A key that has not come for so long is silent.
    after: Millis,
    /// True for a record that says goodbye: its key may be silent from then on.
    goodbye: Option<Expr>,
    /// By stream time: how many records came, per key. Without it, none.
    summary: Option<Millis>,
    /// By the wall clock, also when nothing comes: that this node lives. Without it, none.
    alive: Option<Millis>,
}

/// The outputs, `from: NODE.silent` and so on, in this order.
const PORTS: [&str; 3] = ["silent", "summary", "alive"];

impl CustomOperator for Silence {
    type Processor = Watch;

    fn processor(&self) -> Watch {
        Watch { config: self.clone() }
    }

    fn ports(&self) -> Vec<String> {
        PORTS.map(Into::into).to_vec()
    }

    fn check(&self) -> Vec<Problem> {
        let times = [("after", Some(self.after)), ("summary", self.summary), ("alive", self.alive)];
        let wrong = times.into_iter().filter(|(_, time)| time.is_some_and(|time| time <= Millis::ZERO));
        let help = |field: &str| format!("write a time, for example `{field}: 30s`");
        wrong.map(|(field, _)| Problem::setting(field, "no time at all", help(field))).collect()
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.goodbye.iter_mut().collect()
    }

    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.after)
    }
}

/// The work of one task. What it remembers is in the store `heard` (records per key since the last summary) and in a
/// timer per key.
pub struct Watch {
    config: Silence,
}

impl Processor for Watch {
    fn punctuators(&self) -> Vec<Punctuator> {
        let summary = self.config.summary.map(|every| Punctuator::stream("summary", every));
        let alive = self.config.alive.map(|every| Punctuator::wall("alive", every));
        summary.into_iter().chain(alive).collect()
    }

    fn process(&mut self, record: Record, cx: &mut ProcessorCx<'_, '_>) -> Result<(), OperatorError> {
        let Some(key) = record.key.clone() else {
            return Err(OperatorError::reject(
                record,
                Reason::NullKey,
                "a measurement needs its machine as the key",
            ));
        };
        let goodbye = match &self.config.goodbye {
            Some(goodbye) => match goodbye.test(&Scope::of(&record)) {
                Ok(goodbye) => goodbye,
                Err(error) => return Err(OperatorError::expression(record, &error)),
            },
            None => false,
        };
        let heard: u64 = cx.store("heard").get_json(&key)?.unwrap_or(0);
        cx.store("heard").put_json(&key, &(heard + 1))?;
        if goodbye {
            cx.cancel_timer(&key)?;
        } else {
            cx.set_timer(&key, record.ts.plus(self.config.after))?;
        }
        Ok(())
    }

    fn timer(
        &mut self,
        key: &[u8],
        at: Timestamp,
        cx: &mut ProcessorCx<'_, '_>,
    ) -> Result<(), OperatorError> {
        let since = at.0 - self.config.after.0;
        cx.forward_to(0, Record::new(key.to_vec(), Value::from(json!({ "since": since })), at));
        Ok(())
    }

    fn punctuate(
        &mut self,
        name: &'static str,
        at: Timestamp,
        cx: &mut ProcessorCx<'_, '_>,
    ) -> Result<(), OperatorError> {
        if name == "alive" {
            cx.forward_to(2, Record::new("alive", Value::from(json!({})), at));
            return Ok(());
        }
        for (key, _) in cx.store("heard").all()? {
            let heard: Option<u64> = cx.store("heard").get_json(&key)?;
            cx.store("heard").delete(&key);
            cx.forward_to(1, Record::new(key, Value::from(json!({ "heard": heard })), at));
        }
        Ok(())
    }

    /// A machine that was silent until this record was silent.
    fn time_first(&self) -> bool {
        true
    }
}
