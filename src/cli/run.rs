//! `run`: topologies against their real servers, until a signal.
//!
//! Each has its engine, its consumer group and its state; they share the process, its runtime and the admin server. What
//! ends one with an error ends all, in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::connect::state_dir_of;
use super::together::{check_files, load_files};
use super::{BAD_FILE, Exit};
use crate::gateway::{AdminServer, Gateway};
use crate::model::{Millis, secret};
use crate::runtime::{Engine, EngineError, EngineHandle, EngineOptions, Override};
use crate::sinks::make_files_with;
use crate::topology::Topology;
use crate::yaml::{Loaded, Registry};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Topology files. Several run in one process, each with its own consumer group and state.
    #[arg(required = true)]
    topologies: Vec<PathBuf>,
    /// Where state lives, of several topologies in a folder NAME each. Default: ./state/NAME.
    #[arg(long, env = "SLACKWATER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of /metrics, /live, /ready and the web page; port 0 takes a free one and says which.
    #[arg(long, env = "SLACKWATER_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    admin: String,
    /// Worker threads, divided among several topologies, at least one each. Default: one per core.
    #[arg(long, env = "SLACKWATER_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Name of this instance in the consumer group (static membership): a restart keeps its partitions.
    #[arg(long, env = "SLACKWATER_INSTANCE_ID", value_name = "NAME")]
    instance_id: Option<String>,
    /// Where other instances of the same topology find this one's admin server, `host:port`, to ask it for the keys that it
    /// owns, where endpoints read state. Of any address (`0.0.0.0`) the host is the one that brokers see. Default: the
    /// address of the admin server.
    #[arg(long, env = "SLACKWATER_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// How long a stop may take before what is left is abandoned to the next start.
    #[arg(long, env = "SLACKWATER_STOP_DEADLINE", value_name = "TIME", default_value = "30s")]
    stop_deadline: Millis,
}

impl RunArgs {
    /// What the `n`-th topology runs with.
    fn options(&self, n: usize, topology: &Topology) -> EngineOptions {
        let files = self.topologies.len();
        let workers = self.workers.map_or_else(cores, usize::from);
        // The first ones take what does not divide evenly.
        let share = workers / files + usize::from(n < workers % files);
        EngineOptions {
            state_dir: state_dir_of(self.state_dir.as_deref(), topology, files),
            workers: share.max(1),
            instance_id: self.instance_id.clone(),
            advertise: self.advertise.clone(),
            stop_deadline: self.stop_deadline.duration(),
        }
    }
}

pub(super) fn run(registry: &Registry, args: &RunArgs) -> Result<(), Exit> {
    let files = load_files(registry, &args.topologies)?;
    check_files(&files)?;
    for warning in files.iter().map(Loaded::warnings).flat_map(|report| report.problems().to_vec()) {
        tracing::warn!("{}", warning.message);
    }
    // State is for this user alone: RocksDB makes its files as the process does. What sinks write is as it was.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    make_files_with(0o666 & !before.as_raw_mode());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tokio")
        .build()
        .map_err(|e| Exit::failed(e.to_string()))?;
    let result = runtime.block_on(serve(&files, args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

async fn serve(files: &[Loaded], args: &RunArgs) -> Result<(), Exit> {
    let stop = CancellationToken::new();
    on_signals(&stop).map_err(|e| Exit::failed(e.to_string()))?;
    let several = files.len() > 1;
    let mut handles = Vec::new();
    for loaded in files {
        let handle = EngineHandle::new(&Arc::new(loaded.topology.clone()));
        handles.push(handle.map_err(|e| exit(loaded, e))?);
    }
    // A token of its own: the admin server answers until everything else has stopped, so that the last checkpoint can
    // be seen.
    let served = CancellationToken::new();
    let server = AdminServer::start(&args.admin, handles.clone(), served)
        .await
        .map_err(|e| Exit::failed(e.to_string()))?;
    tokio::spawn(read_secrets_again(stop.clone()));
    let (mut running, busy) = (JoinSet::new(), Arc::new(AtomicUsize::new(files.len())));
    for (n, handle) in handles.into_iter().enumerate() {
        let topology = Arc::clone(handle.topology());
        let mut options = args.options(n, &topology);
        // Others ask it for keys only where endpoints read state.
        if topology.reads_state() {
            options.advertise.get_or_insert_with(|| server.address.to_string());
        }
        tracing::info!(topology = topology.name, admin = %server.address, state = %options.state_dir.display(), "starting");
        let one = One { handle, options, busy: Arc::clone(&busy), stop: stop.clone() };
        // Log lines of one among several say whose they are.
        let span = match several {
            true => tracing::info_span!("run", topology = topology.name),
            false => tracing::Span::none(),
        };
        running.spawn(async move { (n, one.run().await) }.instrument(span));
    }
    let mut failure = None;
    while let Some(ended) = running.join_next().await {
        // A panic has been reported by the hook, which ends the process.
        let Ok((n, result)) = ended else { continue };
        let error = match result {
            Ok(()) | Err(EngineError::Stopped) => continue,
            Err(EngineError::Failed(message)) if several => {
                EngineError::Failed(format!("{}: {message}", files[n].topology.name))
            }
            Err(error) => error,
        };
        stop.cancel();
        match failure {
            None => failure = Some((n, error)),
            Some(_) => tracing::error!(topology = files[n].topology.name, %error, "failed too"),
        }
    }
    server.stop().await;
    match failure {
        None => {
            tracing::info!("stopped");
            Ok(())
        }
        Some((n, error)) => Err(exit(&files[n], error)),
    }
}

/// One topology of the process.
struct One {
    handle: EngineHandle,
    options: EngineOptions,
    /// How many topologies have not ended by themselves.
    busy: Arc<AtomicUsize>,
    /// Stops all.
    stop: CancellationToken,
}

impl One {
    /// Runs it from start to stop.
    async fn run(self) -> Result<(), EngineError> {
        let One { handle, options, busy, stop } = self;
        // Before the engine: what needs no engine is answered while it waits for its servers.
        let gateway = Gateway::start(&handle).await.map_err(|e| EngineError::Failed(e.to_string()))?;
        let serves = gateway.is_some();
        let started = Engine::start(&handle, options, Override::default(), &stop).await;
        if let Ok(engine) = &started {
            engine.run(&stop).await;
            if !handle.has_failed() && !stop.is_cancelled() {
                // Its sources have ended. It can be asked until those of the last topology have; one with endpoints does
                // not end by itself.
                if !serves && busy.fetch_sub(1, Ordering::Relaxed) == 1 {
                    stop.cancel();
                }
                stop.cancelled().await;
            }
        }
        if let Some(gateway) = gateway {
            gateway.drain().await;
        }
        let stopped = started?.stop().await;
        if stopped.is_err() {
            stop.cancel();
        }
        stopped
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
