//! Problems of a topology file, and the report that shows all of them at once.
//!
//! A `Problem` is a stable code, a message, a place, a label at that place and a help line. Every check in `yaml/` makes
//! them; `cli/` prints the `Report` (for people through miette, or as JSON) and maps it to exit code 78.
//! The one home of `miette`.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use super::secret::{Secrets, overwrite, redact};
use crate::model::{Json, Problem, Severity};

/// A longer line, in bytes, is not shown in a report.
const LINE_SHOWN: usize = 4096;
/// Bytes shown of a place in such a line.
const WORDS_SHOWN: usize = 60;

/// All problems of one file.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Report {
    file: String,
    source_text: String,
    problems: Vec<Problem>,
}

impl Report {
    /// The problems of `file`, whose text is `source`, in the order of their places and without repeats.
    #[must_use]
    pub fn new(file: impl Into<String>, source: impl Into<String>, problems: Vec<Problem>) -> Report {
        let source_text = source.into();
        let mut problems = problems;
        for problem in &mut problems {
            if let Some(span) = &mut problem.span {
                *span = one_line(&source_text, span);
            }
        }
        // Problems without a place come first: they are about the whole file.
        problems.sort_by(|a, b| {
            let place = |p: &Problem| p.span.as_ref().map(|s| (s.start, s.end));
            (place(a), a.code, &a.message).cmp(&(place(b), b.code, &b.message))
        });
        problems.dedup_by(|a, b| (a.code, &a.span, &a.message) == (b.code, &b.span, &b.message));
        Report { file: file.into(), source_text, problems }
    }

    /// The same report with every secret taken out of its messages and its text.
    #[must_use]
    pub fn redacted(mut self, secrets: &Secrets) -> Report {
        self.source_text = overwrite(&self.source_text, secrets);
        for problem in &mut self.problems {
            problem.message = redact(&problem.message, secrets);
            problem.label = redact(&problem.label, secrets);
            problem.help = problem.help.take().map(|h| redact(&h, secrets));
        }
        self
    }

    /// Whether there are no problems.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems in order.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Line and column (from 1, in characters) of a byte offset.
    #[must_use]
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.source_text[..floor(&self.source_text, offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// For terminals: every problem framed in the file's text, then how many there are.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler =
            GraphicalReportHandler::new_themed(theme).with_links(false).with_width(110).with_context_lines(1);
        let source = NamedSource::new(&self.file, self.source_text.clone()).with_language("yaml");
        let long = self.source_text.lines().any(|line| line.len() > LINE_SHOWN);
        let mut out = String::new();
        for problem in &self.problems {
            if let (true, Some(span)) = (long, &problem.span) {
                out.push_str(&self.in_words(problem, span));
            } else {
                let shown = Shown { problem, source: problem.span.as_ref().map(|_| &source) };
                if handler.render_report(&mut out, &shown).is_err() {
                    out.push_str(&problem.message);
                }
            }
            out.push('\n');
        }
        let count = self.problems.len();
        let what = match self.problems.iter().all(|p| p.severity == Severity::Warning) {
            true => "warning",
            false => "problem",
        };
        let plural = if count == 1 { "" } else { "s" };
        out.push_str(&format!("{}: {count} {what}{plural}\n", self.file));
        out
    }

    /// A problem without the lines around it, for a place in a line too long to show.
    fn in_words(&self, problem: &Problem, span: &Range<usize>) -> String {
        let (line, column) = self.line_column(span.start);
        let end = floor(&self.source_text, span.end.min(span.start + WORDS_SHOWN));
        let here = &self.source_text[floor(&self.source_text, span.start)..end];
        let more = if end < span.end { "..." } else { "" };
        let help = problem.help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
        let Problem { code, message, label, .. } = problem;
        let file = &self.file;
        format!("{code}\n\n  × {message}\n   ─[{file}:{line}:{column}]\n    {here}{more}: {label}{help}\n")
    }

    /// For programs: a list of `{code, message, file, line, column, label, help}`; line and column from 1, `null`
    /// without a place. A warning has `severity: warning` too.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let row = |p: &Problem| {
            let place = p.span.as_ref().map(|s| self.line_column(s.start));
            let mut row = serde_json::json!({
                "code": p.code,
                "message": p.message,
                "file": self.file,
                "line": place.map(|(line, _)| line),
                "column": place.map(|(_, column)| column),
                "label": p.label,
                "help": p.help,
            });
            if p.severity == Severity::Warning {
                row["severity"] = "warning".into();
            }
            row
        };
        Json::Array(self.problems.iter().map(row).collect())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The range inside the text, on character boundaries, cut at the end of its first line.
fn one_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = floor(text, span.start);
    let end = floor(text, span.end).max(start);
    let end = text[start..end].find('\n').map_or(end, |at| start + at);
    start..start + text[start..end].trim_end().len()
}

/// The greatest character boundary that is not past `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A problem as miette sees it.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    source: Option<&'a NamedSource<String>>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(self.problem.code))
    }
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.problem.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }
    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.problem.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        let label = (!self.problem.label.is_empty()).then(|| self.problem.label.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(label, span))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: größe\nquiet: 30\nlist:\n  - a\n";

    fn report() -> Report {
        let unit = Problem::new("bad-value", "`30` is no duration").at(20..22, "here").help("write `30s`");
        let name = Problem::new("unknown-field", "unknown field `name`").at(0..4, "not known");
        Report::new("t.yaml", TEXT, vec![unit.clone(), name, unit])
    }

    #[test]
    fn problems_stand_in_order_and_once() {
        let report = report();
        let codes: Vec<_> = report.problems().iter().map(|p| p.code).collect();
        assert_eq!(codes, ["unknown-field", "bad-value"]);
    }

    #[test]
    fn a_place_is_a_line_and_a_column_in_characters() {
        let report = report();
        for (offset, expected) in [(0, (1, 1)), (10, (1, 10)), (13, (1, 12)), (14, (2, 1)), (999, (5, 1))] {
            assert_eq!(report.line_column(offset), expected, "{offset}");
        }
    }

    #[test]
    fn people_see_file_line_column_label_and_help() {
        let shown = report().to_string();
        for part in ["t.yaml:1:1", "t.yaml:2:7", "not known", "here", "write `30s`", "t.yaml: 2 problems"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "no colours");
        assert!(report().render(true).contains('\u{1b}'), "colours");
    }

    #[test]
    fn a_line_without_end_is_not_shown() {
        let text = format!("name: t\nx: {}\n", "ä".repeat(1_000_000));
        let problem =
            Problem::new("wrong-type", "too much").at(11..text.len() - 1, "here").help("write less");
        let shown = Report::new("t.yaml", &text, vec![problem]).to_string();
        assert!(shown.len() < 300, "{} bytes", shown.len());
        for part in ["wrong-type", "too much", "t.yaml:2:4", "äää...: here", "help: write less", "1 problem"]
        {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn programs_see_rows() {
        let json = report().to_json();
        assert_eq!(json[1]["line"], 2);
        assert_eq!(json[1]["column"], 7);
        assert_eq!(json[1]["help"], "write `30s`");
        let none = Report::new("x", "", vec![Problem::new("yaml", "empty")]).to_json();
        assert_eq!(none[0]["line"], Json::Null);
    }

    #[test]
    fn a_label_stays_on_its_first_line() {
        let report = Report::new("t", TEXT, vec![Problem::new("x", "y").at(24..33, "")]);
        assert_eq!(report.problems()[0].span, Some(24..29));
        let report = Report::new("t", TEXT, vec![Problem::new("x", "y").at(9..10, "")]);
        assert_eq!(report.problems()[0].span, Some(8..10), "inside `ö`");
    }

    #[test]
    fn secrets_are_in_no_report() {
        let mut secrets = Secrets::default();
        secrets.learn("DB_PASSWORD", "hunter2");
        let text = "url: http://me:geheim@h\nx: y\n";
        let problem = Problem::new("bad-value", "`hunter2` is bad").at(5..24, "hunter2").help("not hunter2");
        let report = Report::new("t", text, vec![problem]).redacted(&secrets);
        let all = format!("{report}{}", report.to_json());
        assert!(!all.contains("hunter2") && !all.contains("geheim"), "{all}");
    }
}
