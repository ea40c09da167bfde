//! `dev`: runs a topology with nothing installed, feeds it for a while, and proves the result. [`crate::dev`] makes
//! what is around the engine. The first signal ends the feeding, the second ends everything.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::run::{exit, on_signals};
use super::{Exit, FAILED, Format, read_file, start_logs};
use crate::dev::{DevError, DevOptions, View, play};
use crate::model::Millis;
use crate::yaml::Registry;

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Topology file.
    topology: PathBuf,
    /// Time runs so many times faster: the times that debounces wait, and the API's settling. 1 is real time.
    #[arg(long, value_name = "TIMES", default_value = "10", value_parser = speed, overrides_with = "speed")]
    speed: f64,
    /// How long to feed events, as in `30s` or `5m`; then everything settles and is proved.
    #[arg(long, value_name = "TIME", default_value = "60s", overrides_with = "duration")]
    duration: Millis,
    /// Events a second, on average.
    #[arg(long, value_name = "N", default_value = "75", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    events_per_second: u32,
    /// Accounts (keys) that the events are about.
    #[arg(long, value_name = "N", default_value = "300", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    accounts: u32,
    /// Where state lives; must be empty, since the broker starts empty too. Default: a directory that is removed.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of /metrics, /live, /ready and the web page; port 0 takes a free one and says which.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    admin: String,
    /// One line a second in place of the live view, as where standard output is no terminal.
    #[arg(long)]
    plain: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.1..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("write a number from 0.1 to 1000".into()),
    }
}

pub(super) fn dev(registry: &Registry, args: &DevArgs, format: Format) -> Result<(), Exit> {
    let view = View::new(args.plain);
    let log = view.clone();
    start_logs(format, "warn,librdkafka=error", move || log.log());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tokio")
        .build()
        .map_err(|e| Exit::failed(e.to_string()))?;
    let result = runtime.block_on(Box::pin(perform(registry, args, &view)));
    view.end();
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn perform(registry: &Registry, args: &DevArgs, view: &View) -> Result<(), Exit> {
    let stop = CancellationToken::new();
    on_signals(&stop).map_err(|e| Exit::failed(e.to_string()))?;
    let options = DevOptions {
        file: args.topology.display().to_string(),
        text: read_file(&args.topology)?,
        speed: args.speed,
        duration: args.duration,
        events_per_second: args.events_per_second,
        accounts: args.accounts,
        state_dir: args.state_dir.clone(),
        admin: args.admin.clone(),
    };
    Box::pin(play(registry, &options, view, &stop)).await.map_err(|e| match e {
        DevError::Failed(message) => Exit::failed(message),
        DevError::File(report) => Exit::bad_file(&report),
        DevError::StateDir(message) => Exit { code: 2, message: Some(format!("error: {message}")) },
        DevError::Engine(stopped) => exit(&stopped.0, stopped.1),
        DevError::NotProved => Exit::quiet(FAILED),
    })
}
