//! `run`: a topology against its real servers, until a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{BAD_FILE, Exit, load_file};
use crate::gateway::AdminServer;
use crate::model::{Millis, secret};
use crate::runtime::{Engine, EngineError, EngineHandle, EngineOptions, Override};
use crate::sinks::make_files_with;
use crate::yaml::{Loaded, Mode, Registry};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Topology file.
    topology: PathBuf,
    /// Where state lives. Default: ./state/NAME.
    #[arg(long, env = "SLACKWATER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of /metrics, /live, /ready and the web page; port 0 takes a free one and says which.
    #[arg(long, env = "SLACKWATER_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    admin: String,
    /// Worker threads. Default: one per core.
    #[arg(long, env = "SLACKWATER_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Name of this instance in the consumer group (static membership): a restart keeps its partitions.
    #[arg(long, env = "SLACKWATER_INSTANCE_ID", value_name = "NAME")]
    instance_id: Option<String>,
    /// How long a stop may take before what is left is abandoned to the next start.
    #[arg(long, env = "SLACKWATER_STOP_DEADLINE", value_name = "TIME", default_value = "30s")]
    stop_deadline: Millis,
}

pub(super) fn run(registry: &Registry, args: &RunArgs) -> Result<(), Exit> {
    let loaded = load_file(registry, &args.topology, Mode::Required)?;
    for warning in loaded.warnings().problems() {
        tracing::warn!("{}", warning.message);
    }
    // State is for this user alone: RocksDB makes its files as the process does. What sinks write is as it was.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    make_files_with(0o666 & !before.as_raw_mode());
    let options = EngineOptions {
        state_dir: args
            .state_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from("state").join(&loaded.topology.name)),
        workers: args.workers.map_or_else(cores, usize::from),
        instance_id: args.instance_id.clone(),
        stop_deadline: args.stop_deadline.duration(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tokio")
        .build()
        .map_err(|e| Exit::failed(e.to_string()))?;
    let result = runtime.block_on(serve(&loaded, options, &args.admin));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

async fn serve(loaded: &Loaded, options: EngineOptions, admin: &str) -> Result<(), Exit> {
    let stop = CancellationToken::new();
    on_signals(&stop).map_err(|e| Exit::failed(e.to_string()))?;
    let topology = Arc::new(loaded.topology.clone());
    let exit = |e: EngineError| exit(loaded, e);
    let handle = EngineHandle::new(&topology).map_err(exit)?;
    // A token of its own: the admin server answers until everything else has stopped, so that the last checkpoint can
    // be seen.
    let served = CancellationToken::new();
    let server =
        AdminServer::start(admin, handle.clone(), served).await.map_err(|e| Exit::failed(e.to_string()))?;
    tokio::spawn(read_secrets_again(stop.clone()));
    tracing::info!(topology = topology.name, admin = %server.address, state = %options.state_dir.display(), "starting");
    let result = match Engine::start(&handle, options, Override::default(), &stop).await {
        Ok(engine) => {
            engine.run(&stop).await;
            engine.stop().await
        }
        Err(e) => Err(e),
    };
    server.stop().await;
    match result {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(EngineError::Stopped) => Ok(()),
        Err(e) => Err(exit(e)),
    }
}

/// How often secrets in files are read again.
const SECRETS: Duration = Duration::from_secs(2);

/// Reads secrets in files again, until `stop`.
async fn read_secrets_again(stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SECRETS) => {}
        }
        let read = || secret::read_again(|path| std::fs::read_to_string(path).ok());
        for path in tokio::task::spawn_blocking(read).await.unwrap_or_default() {
            tracing::info!(file = %path.display(), "a secret has changed: calls go with the new one");
        }
    }
}

pub(super) fn exit(loaded: &Loaded, error: EngineError) -> Exit {
    match error {
        EngineError::Config { node, field, message } => {
            let report = loaded.places().report("connect::config", node.as_deref(), &field, &message, None);
            Exit { code: BAD_FILE, ..Exit::bad_file(&report.redacted(&loaded.secrets)) }
        }
        EngineError::Uneven(uneven) => {
            let report = super::check::uneven_report(loaded, &uneven);
            Exit { code: BAD_FILE, ..Exit::bad_file(&report.redacted(&loaded.secrets)) }
        }
        EngineError::Missing(missing) => {
            let report = super::check::missing_report(loaded, &missing.0);
            Exit { code: BAD_FILE, ..Exit::bad_file(&report.redacted(&loaded.secrets)) }
        }
        EngineError::Unfit(problems) => {
            let report = super::check::unfit_report(loaded, problems);
            Exit { code: BAD_FILE, ..Exit::bad_file(&report.redacted(&loaded.secrets)) }
        }
        EngineError::Failed(message) => Exit::failed(message),
        EngineError::Stopped => Exit::quiet(0),
    }
}

/// The first SIGINT or SIGTERM stops in order, the second at once.
pub(super) fn on_signals(stop: &CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        for n in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if n == 0 {
                tracing::info!("signal: stopping in order; a second one stops at once");
                stop.cancel();
            } else {
                tracing::warn!("second signal: stopping at once; the last checkpoint is the truth");
                std::process::exit(1);
            }
        }
    });
    Ok(())
}
