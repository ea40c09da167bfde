//! Shows what `dev` does while it runs: a block that is redrawn if standard output is a terminal, otherwise one line a
//! second. The one home of `indicatif`.
//!
//! A reader that has gone (`| head`) is no error: nothing more is shown.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second.
const REDRAWS: u8 = 10;

/// `n` with its thousands apart: `12,345`.
#[must_use]
pub fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// One moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Since feeding began.
    pub elapsed: Duration,
    /// How long feeding lasts.
    pub duration: Duration,
    /// Whether the feed is over.
    pub settling: bool,
    /// Events that the topology has read.
    pub events: u64,
    /// Keys that have not gone quiet.
    pub waiting: u64,
    /// Calls that arrived at the API.
    pub calls: u64,
    /// Rows written to tables, each write of one key counted.
    pub rows: u64,
    /// Calls that arrived in the last second.
    pub last_second: usize,
    /// Calls a second that the topology allows itself.
    pub limit: Option<f64>,
}

impl Snapshot {
    /// Calls saved, in percent of one call per event. A waiting key counts as a call still to be made, so the number
    /// does not fall when the feed ends. `None` before the first call.
    #[must_use]
    pub fn saved_percent(&self) -> Option<u64> {
        let needed = self.calls + self.waiting;
        (self.calls > 0 && self.events > 0).then(|| 100 * self.events.saturating_sub(needed) / self.events)
    }

    fn saved(&self) -> String {
        self.saved_percent().map_or_else(|| "-".to_owned(), |n| format!("{n} %"))
    }

    /// ` of 1,500`, or nothing without a limit.
    fn of_limit(&self) -> String {
        self.limit.map_or_else(String::new, |limit| format!(" of {}", limit_text(limit)))
    }

    /// The line for a standard output that is no terminal.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{:>4} s  events {:>6}  waiting {:>5}  calls {:>6}  saved {:>4}  rows {:>6}  calls in the last second {:>4}{}{}",
            self.elapsed.as_secs(),
            count(self.events),
            count(self.waiting),
            count(self.calls),
            self.saved(),
            count(self.rows),
            self.last_second,
            self.of_limit(),
            if self.settling { "  settling" } else { "" },
        )
    }

    /// The block for a terminal.
    fn block(&self) -> [String; 3] {
        [
            format!("  events in    {:>9}     keys waiting {:>9}", count(self.events), count(self.waiting)),
            format!(
                "  calls made   {:>9}     calls saved  {:>9}     rows written {:>9}",
                count(self.calls),
                self.saved(),
                count(self.rows)
            ),
            format!("  calls in the last second {:>4}{}", self.last_second, self.of_limit()),
        ]
    }
}

/// A limit as a number of calls a second: `1,500`, or `0.5` below one.
#[must_use]
pub fn limit_text(limit: f64) -> String {
    let whole = Duration::try_from_secs_f64(limit).unwrap_or(Duration::MAX);
    if whole.subsec_nanos() == 0 { count(whole.as_secs()) } else { limit.to_string() }
}

/// The display of a run. Cheap to clone.
#[derive(Clone)]
pub struct View(Option<Block>);

#[derive(Clone)]
struct Block {
    multi: MultiProgress,
    head: ProgressBar,
    lines: [ProgressBar; 3],
}

impl View {
    /// Shows a block if standard output is a terminal and `plain` does not forbid it.
    #[must_use]
    pub fn new(plain: bool) -> View {
        if plain || !std::io::stdout().is_terminal() {
            return View(None);
        }
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(REDRAWS));
        let head = multi.add(ProgressBar::new(1));
        let lines = [(); 3].map(|()| multi.add(ProgressBar::new(1)));
        // If the template cannot be read, indicatif's own is used.
        if let Ok(style) = ProgressStyle::with_template("{prefix:.bold} {bar:34.cyan/dim} {msg}") {
            head.set_style(style.progress_chars("━━─"));
        }
        for line in &lines {
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                line.set_style(style);
            }
        }
        View(Some(Block { multi, head, lines }))
    }

    /// How often [`View::show`] should be called.
    #[must_use]
    pub fn every(&self) -> Duration {
        if self.0.is_some() { Duration::from_millis(200) } else { Duration::from_secs(1) }
    }

    /// Shows the moment.
    pub fn show(&self, name: &str, now: &Snapshot) {
        let Some(block) = &self.0 else { return self.say(&now.line()) };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        block.head.set_length(millis(now.duration).max(1));
        block.head.set_position(millis(now.elapsed.min(now.duration)));
        block.head.set_prefix(name.to_owned());
        block.head.set_message(match now.settling {
            true => "settling".to_owned(),
            false => format!("{} s of {} s", now.elapsed.as_secs(), now.duration.as_secs()),
        });
        for (line, text) in block.lines.iter().zip(now.block()) {
            line.set_message(text);
        }
    }

    /// Shows the moment in the block, if there is one.
    pub fn show_block(&self, name: &str, now: &Snapshot) {
        if self.0.is_some() {
            self.show(name, now);
        }
    }

    /// Prints a line, above the block if there is one.
    pub fn say(&self, text: &str) {
        self.aside(|| drop(writeln!(std::io::stdout(), "{text}")));
    }

    /// Prints a line, unless there is a block that shows the same already.
    pub fn say_plainly(&self, text: &str) {
        if self.0.is_none() {
            self.say(text);
        }
    }

    /// Removes the block.
    pub fn end(&self) {
        if let Some(block) = &self.0 {
            drop(block.multi.clear());
            block.multi.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Where log lines go: standard error, above the block.
    #[must_use]
    pub fn log(&self) -> Log {
        Log(self.clone())
    }

    fn aside<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(block) => block.multi.suspend(f),
            None => f(),
        }
    }
}

/// Standard error without breaking the block.
pub struct Log(View);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.aside(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_one_line() {
        let now = Snapshot {
            elapsed: Duration::from_millis(12_900),
            events: 1873,
            waiting: 92,
            calls: 187,
            rows: 185,
            last_second: 9,
            limit: Some(1500.0),
            ..Snapshot::default()
        };
        assert_eq!(
            now.line(),
            "  12 s  events  1,873  waiting    92  calls    187  saved 85 %  rows    185  calls in the last second    9 of 1,500"
        );
        assert!(Snapshot { settling: true, limit: None, ..now }.line().ends_with("   9  settling"));
        assert_eq!(limit_text(0.5), "0.5");
    }

    #[test]
    fn a_waiting_key_is_a_call_to_come() {
        let now = |events, waiting, calls| Snapshot { events, waiting, calls, ..Snapshot::default() };
        assert_eq!(now(100, 30, 0).saved_percent(), None);
        assert_eq!(now(100, 20, 10).saved_percent(), Some(70));
        assert_eq!(now(100, 0, 30).saved_percent(), Some(70));
        assert_eq!(now(10, 0, 12).saved_percent(), Some(0), "retries may cost more than was saved");
    }
}
