//! The command line: clap types here, one file per command.
//!
//! Exit codes: 0 done or stopped by a signal, 1 failed while running, 2 bad arguments, 69 a needed server never
//! answered (`check --connect`, `offsets`, `dlq`, `reset`), 78 bad topology file, 141 the reader of the output has gone (`|
//! head`).

mod check;
mod connect;
mod dev;
mod dlq;
mod explain;
mod graph;
mod new;
mod offsets;
mod reset;
mod run;
mod simulate;
mod state;
mod table;
mod test;
mod together;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::fmt::MakeWriter;

use crate::model::Problem;
use crate::model::secret::{Masked, masked};
use crate::yaml::{Loaded, Mode, Registry, Report, load_with};

/// Exit code: failed while running.
const FAILED: u8 = 1;
/// Exit code: a needed server never answered.
const UNAVAILABLE: u8 = 69;
/// Exit code: the reader of the output has gone. A shell shows the same for a process that SIGPIPE ended.
const CLOSED_PIPE: u8 = 141;
/// Exit code: bad topology file.
const BAD_FILE: u8 = 78;

/// A stateful stream processor: a topology in YAML, state in RocksDB, truth in Kafka.
#[derive(Debug, Parser)]
#[command(name = "slackwater", version, arg_required_else_help = true)]
#[command(after_help = "Variables: SLACKWATER_LOG (what is logged, such as debug), NO_COLOR")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look.
    #[arg(long, global = true, env = "SLACKWATER_LOG_FORMAT", default_value = "text")]
    log_format: Format,
}

/// How a command prints its result, and how log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text to read.
    Text,
    /// JSON, for programs; a log has one object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run topologies against their real servers.
    Run(run::RunArgs),
    /// Run a topology with nothing installed: broker, API and tables are inside the process. Ends with a proof.
    Dev(dev::DevArgs),
    /// Report everything wrong with a topology file.
    Check(check::CheckArgs),
    /// Run the tests inside a topology file, on virtual time, without servers.
    Test(test::TestArgs),
    /// Feed JSON lines through the production task on virtual time and print what comes out.
    Simulate(simulate::SimulateArgs),
    /// Print the topology as a picture.
    Graph(graph::GraphArgs),
    /// Say what the topology does: what runs together, keys, state, topics of its own, guarantees.
    Explain(explain::ExplainArgs),
    /// Print what the topology's consumer group has committed and what it has still to read.
    Offsets(offsets::OffsetsArgs),
    /// Look at the dead letters, and send their records again.
    Dlq(dlq::DlqArgs),
    /// Look into the state of a stopped instance.
    State(state::StateArgs),
    /// Go back to the beginning: delete offsets, the topology's own topics and local state. A dry run by default.
    Reset(reset::ResetArgs),
    /// Write a starter file.
    New(new::NewArgs),
    /// Print the JSON schema of topology files, for editors.
    Schema,
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    main_with(&Registry::default())
}

/// The same for a program with operators of its own, which every command then knows. It is all that such a program's
/// `main` calls.
#[must_use]
pub fn main_with(registry: &Registry) -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Dev(_)) {
        start_logs(cli.log_format, "info,librdkafka=error", std::io::stderr);
    }
    end_on_panic();
    // gcloud-spanner panics on TLS when two crypto providers are compiled in and none is chosen.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    let code = match cli.command {
        Command::Run(args) => run::run(registry, &args),
        Command::Dev(args) => dev::dev(registry, &args, cli.log_format),
        Command::Check(args) => check::check(registry, &args),
        Command::Test(args) => test::test(registry, &args),
        Command::Simulate(args) => simulate::simulate(registry, &args),
        Command::Graph(args) => graph::graph(registry, &args),
        Command::Explain(args) => explain::explain(registry, &args),
        Command::New(args) => new::new(&args),
        Command::Offsets(args) => offsets::offsets(registry, &args),
        Command::Dlq(args) => dlq::dlq(registry, &args),
        Command::State(args) => state::state(registry, &args),
        Command::Reset(args) => reset::reset(registry, &args),
        Command::Schema => graph::schema(registry),
    };
    match code {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if let Some(message) = exit.message {
                eprintln!("{}", masked(&message));
            }
            ExitCode::from(exit.code)
        }
    }
}

/// How a command ended, if it failed.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    message: Option<String>,
}

impl Exit {
    fn failed(message: impl Into<String>) -> Exit {
        Exit { code: FAILED, message: Some(format!("error: {}", message.into())) }
    }

    fn bad_file(report: &Report) -> Exit {
        Exit { code: BAD_FILE, message: Some(report.render(colours()).trim_end().to_owned()) }
    }

    /// Writing to standard output failed.
    fn output(error: &std::io::Error) -> Exit {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Exit::quiet(CLOSED_PIPE),
            _ => Exit::failed(error.to_string()),
        }
    }

    fn quiet(code: u8) -> Exit {
        Exit { code, message: None }
    }
}

fn colours() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Ends the process after a panic, whichever thread it was: a panic is a bug, and half a topology must not go on. The
/// report names the thread.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_closed_pipe(panic) {
            std::process::exit(CLOSED_PIPE.into());
        }
        report(panic);
        std::process::exit(FAILED.into());
    }));
}

/// Whether a panic came from `println!` because the reader of our output has gone (`| head`). Only for standard output:
/// an error of another stream is a bug like any other.
fn is_closed_pipe(panic: &std::panic::PanicHookInfo<'_>) -> bool {
    let text = panic.payload().downcast_ref::<String>();
    text.is_some_and(|text| text.starts_with("failed printing to stdout: Broken pipe"))
}

/// Starts the log. `default` is the filter if `SLACKWATER_LOG` is not set.
fn start_logs<W>(format: Format, default: &str, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SLACKWATER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let writer = MaskedLogs(writer);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second call, as in tests, changes nothing.
    match format {
        Format::Text => drop(logs.with_target(false).with_ansi(colours()).try_init()),
        Format::Json => drop(logs.json().flatten_event(true).try_init()),
    }
}

/// Log lines without secrets.
struct MaskedLogs<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for MaskedLogs<W> {
    type Writer = Masked<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Masked::new(self.0.make_writer())
    }
}

/// Prints, without secrets.
fn print(text: &str) {
    print!("{}", masked(text));
}

fn read_file(path: &Path) -> Result<String, Exit> {
    read_text(path)?.map_err(|report| Exit::bad_file(&report))
}

/// The file's text; if the file is not UTF-8, a report that says where.
fn read_text(path: &Path) -> Result<Result<String, Box<Report>>, Exit> {
    let bytes = std::fs::read(path).map_err(|e| {
        let code = if e.kind() == std::io::ErrorKind::NotFound { 2 } else { FAILED };
        Exit { code, message: Some(format!("error: cannot read {}: {e}", path.display())) }
    })?;
    Ok(String::from_utf8(bytes).map_err(|e| {
        let problem = not_text(e.as_bytes(), e.utf8_error().valid_up_to());
        let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
        Box::new(Report::new(path.display().to_string(), text, vec![problem]))
    }))
}

/// The report on bytes of which only the first `good` are UTF-8. Its place is counted in the text with all invalid
/// bytes replaced.
fn not_text(bytes: &[u8], good: usize) -> Problem {
    let end = good + char::REPLACEMENT_CHARACTER.len_utf8();
    let message = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "this is UTF-16",
        _ => "this byte is no UTF-8",
    };
    Problem::new("yaml", message).at(good..end, "here").help("save the file as UTF-8")
}

fn load_file(registry: &Registry, path: &Path, mode: Mode) -> Result<Loaded, Exit> {
    let text = read_file(path)?;
    let variable = |name: &str| std::env::var(name).ok();
    let loaded = load_with(registry, &path.display().to_string(), &text, mode, &variable)
        .map_err(|report| Exit::bad_file(&report))?;
    loaded.secrets.protect();
    Ok(loaded)
}
