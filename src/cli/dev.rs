//! `dev`: a topology with nothing installed, fed for a while, and a proof at the end.
//!
//! The stand-ins are `testing/dev`; these files put them around the production engine, in the order in which things
//! happen: start (`stage`), feed, settle (`run`), stop, prove (`verdict`). The first signal ends the feeding, the second
//! everything.

mod run;
mod stage;
mod state_dir;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::stage::Stage;
use self::state_dir::StateDir;
use super::run::on_signals;
use super::{Exit, LogFormat, start_logs};
use crate::model::Millis;
use crate::spec::Registry;
use crate::testing::dev::View;

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

pub(super) fn dev(registry: &Registry, args: &DevArgs, format: LogFormat) -> Result<(), Exit> {
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
    let began = Instant::now();
    let stop = CancellationToken::new();
    on_signals(&stop).map_err(failed)?;
    let state = StateDir::new(args.state_dir.as_deref())?;
    let stage = Stage::set(registry, args, view).await?;
    let ended = Box::pin(stage.play(args, view, &state.path, began, &stop)).await;
    stage.servers.cancel();
    ended
}

fn failed(error: impl std::fmt::Display) -> Exit {
    Exit::failed(error.to_string())
}
