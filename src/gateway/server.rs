//! The endpoints' HTTP server: its port, its connections, and its end.
//!
//! An accept loop of its own, since `axum::serve` sets no timer: a client that sends half a request would hold its
//! connection for ever. What a client may take is bounded: connections, the time for a head (`pace`) and between requests,
//! size and time of a body (`body`). Which protocol a connection speaks is found out by looking at its first
//! bytes, within the same time.
//!
//! Life: the port is bound at the start, so that a busy one is an error at once; it listens when every handler is ready; at
//! the end it is closed, what is being answered is answered, with `Connection: close`, and what is left at the deadline is
//! cut off.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderName, HeaderValue, Method};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::answer::REQUEST_ID;
use super::pace::{Pace, Paced};
use super::reads::StandIn;
use super::replies::Replies;
use super::serve::{App, Peer, Waiting};
use super::tls::{Certificate, H2};
use crate::endpoints::{Cors, METHODS, ServeConfig};
use crate::kafka::Messenger;
use crate::runtime::EngineHandle;
use crate::runtime::metrics::EndpointMetrics;

/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 1024;
/// Bytes of a request's head, at most; above it the answer is 431.
const HEAD_MAX: usize = 64 << 10;
/// The same in HTTP/2.
const HEADERS_MAX: u32 = 64 << 10;
/// Requests of an HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 256;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
/// How soon a connection that has sent only the begin of HTTP/2's preface is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long no connection is accepted after one could not be (no file descriptors left).
const REST: Duration = Duration::from_millis(100);

/// Why the endpoints are not served.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The port could not be opened.
    #[error(
        "cannot listen on {address} for the endpoints: {source}. Give another address with `http: {{ listen }}` (port 0 takes a free one)"
    )]
    Listen {
        /// The address that was asked for.
        address: String,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// The producer could not be made.
    #[error("the endpoints' producer: {0}")]
    Producer(String),
    /// The replies to requests cannot be read.
    #[error("the endpoints' replies: {0}")]
    Replies(String),
    /// The certificate cannot be used.
    #[error("the endpoints' certificate: {0}")]
    Certificate(String),
    /// The clients that ask other instances could not be made.
    #[error("reads of other instances' keys: {0}")]
    Stores(String),
    /// What an endpoint needs cannot be had.
    #[error("the endpoint `{endpoint}`: {message}")]
    Endpoint {
        /// Its name.
        endpoint: String,
        /// Why not.
        message: String,
    },
}

/// The served endpoints of a topology.
pub struct Gateway {
    /// Where they are served.
    pub address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

impl Gateway {
    /// Takes the port of a topology's endpoints, and serves them as soon as their handlers are ready: the engine need not
    /// run yet. `None`: the topology has none.
    ///
    /// # Errors
    /// The port cannot be used, or librdkafka refuses the settings.
    pub async fn start(engine: &EngineHandle) -> Result<Option<Gateway>, GatewayError> {
        Gateway::start_with(engine, None).await
    }

    /// The same, with something that is asked in place of Redis and PostgreSQL.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_with(
        engine: &EngineHandle,
        stand_in: Option<&StandIn>,
    ) -> Result<Option<Gateway>, GatewayError> {
        let settings = &engine.topology().settings;
        let Some(config) = settings.http.clone().filter(|_| !settings.endpoints.is_empty()) else {
            return Ok(None);
        };
        let produces = settings.endpoints.values().any(|endpoint| !endpoint.written_topics().is_empty());
        let messenger = match settings.kafka.as_ref().filter(|_| produces) {
            Some(kafka) => {
                let opened = Messenger::open(kafka, config.produce_timeout.duration());
                Some(Arc::new(opened.map_err(GatewayError::Producer)?))
            }
            None => None,
        };
        let replies = match settings.kafka.as_ref() {
            Some(kafka) => {
                let started = Replies::of_topology(kafka, engine);
                started.map_err(GatewayError::Replies)?.map(Arc::new)
            }
            None => None,
        };
        let certificate = config.tls.as_ref().map(Certificate::read).transpose();
        let certificate = certificate.map_err(GatewayError::Certificate)?.map(Arc::new);
        let failed = |source| GatewayError::Listen { address: config.listen.clone(), source };
        let socket = bind(&config.listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let app = Arc::new(App::new(&config, engine, messenger.as_ref(), replies.as_ref(), stand_in)?);
        let stop = CancellationToken::new();
        let serving =
            Serving { app, config, engine: engine.clone(), stop: stop.clone(), address, certificate };
        Waiting::new(engine).say("they are not ready yet");
        let ended = tokio::spawn(serving.run(socket));
        Ok(Some(Gateway { address, stop, ended }))
    }

    /// Closes the port, answers what is owed, and ends; after the time that `drain` gives it in any case. The engine runs
    /// meanwhile: answers may come from it.
    pub async fn drain(self) {
        self.stop.cancel();
        // A panic there has been reported by the hook and ends the process.
        drop(self.ended.await);
    }
}

/// The first address of that name that can be used, not listened on yet.
async fn bind(address: &str) -> io::Result<TcpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(address) {
            Ok(()) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What serves the endpoints.
struct Serving {
    app: Arc<App>,
    config: ServeConfig,
    engine: EngineHandle,
    stop: CancellationToken,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
}

impl Serving {
    async fn run(self, socket: TcpSocket) {
        let waiting = Waiting::new(&self.engine);
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = self.app.prepare(&waiting) => {}
        }
        let listener = match socket.listen(BACKLOG) {
            Ok(listener) => listener,
            Err(source) => {
                let address = self.address.to_string();
                return self.engine.fail(GatewayError::Listen { address, source }.to_string());
            }
        };
        if let Some(certificate) = &self.certificate {
            tokio::spawn(Arc::clone(certificate).follow(self.stop.clone()));
        }
        tracing::info!(http = %self.address, "the endpoints are served");
        waiting.over();
        let mut graceful = GracefulShutdown::new();
        let kill = CancellationToken::new();
        self.accept(listener, &mut graceful, &kill).await;
        // The port is closed by now.
        waiting.say("nothing: they are stopping");
        let owed = graceful.count();
        if tokio::time::timeout(self.config.drain.duration(), graceful.shutdown()).await.is_err() {
            tracing::warn!(owed, "clients were cut off: their answers took longer than `http: {{ drain }}`");
        }
        kill.cancel();
    }

    /// Accepts connections until it is told to stop.
    async fn accept(&self, listener: TcpListener, graceful: &mut GracefulShutdown, kill: &CancellationToken) {
        let connections = Arc::new(Semaphore::new(self.config.max_connections.min(Semaphore::MAX_PERMITS)));
        let (http1, http2) =
            (Arc::new(builder(&self.config).http1_only()), Arc::new(builder(&self.config).http2_only()));
        let router = router(&self.app, &self.config);
        loop {
            let next = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.stop.cancelled() => return,
                next = next => next,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let connection = Connection {
                http1: Arc::clone(&http1),
                http2: Arc::clone(&http2),
                router: router.clone(),
                peer,
                within: self.config.header_timeout.duration(),
                watcher: graceful.watcher(),
                stop: self.stop.clone(),
                acceptor: self.certificate.as_ref().map(|certificate| certificate.acceptor()),
            };
            let (kill, open) = (kill.clone(), Open::new(self.engine.metrics().endpoints()));
            tokio::spawn(async move {
                let (_permit, _open) = (permit, open);
                tokio::select! {
                    () = kill.cancelled() => {}
                    () = Box::pin(connection.serve(stream)) => {}
                }
            });
        }
    }
}

/// What every connection is served by.
fn router(app: &Arc<App>, config: &ServeConfig) -> Router {
    let answer = |State(app): State<Arc<App>>, request: axum::extract::Request| async move {
        app.answer(request).await
    };
    let router = Router::new().fallback(answer).with_state(Arc::clone(app));
    match &config.cors {
        Some(config) => router.layer(cors(config)),
        None => router,
    }
}

fn cors(config: &Cors) -> CorsLayer {
    let origins = config.origins.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok());
    let origin = if config.any_origin() { AllowOrigin::any() } else { AllowOrigin::list(origins) };
    let headers = config.headers.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok());
    let methods = METHODS.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok());
    let shown = ["etag", "location", "retry-after"].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods(methods.collect::<Vec<_>>())
        .allow_headers(headers.collect::<Vec<_>>())
        .expose_headers(shown.into_iter().chain([REQUEST_ID]).collect::<Vec<_>>())
        .allow_credentials(config.credentials)
        .max_age(config.max_age.duration())
}

fn builder(config: &ServeConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // See `pace`: it runs while a connection is idle too.
    let within = config.idle_timeout.duration();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(within).max_buf_size(HEAD_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX);
    builder
}

/// One connection.
struct Connection {
    http1: Arc<Builder<TokioExecutor>>,
    http2: Arc<Builder<TokioExecutor>>,
    router: Router,
    peer: SocketAddr,
    /// How long it may take for what it begins with, and for every head.
    within: Duration,
    watcher: Watcher,
    stop: CancellationToken,
    /// With TLS.
    acceptor: Option<TlsAcceptor>,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Answers are written whole: nothing is gained by waiting for more.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps Nagle's delay");
        }
        match self.acceptor.clone() {
            None => {
                let Some(Some(is_http2)) = self.soon(is_http2(&stream)).await else { return };
                self.speak(stream, is_http2).await;
            }
            Some(acceptor) => {
                let Some(stream) = self.soon(acceptor.accept(stream)).await else { return };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
                self.speak(stream, is_http2).await;
            }
        }
    }

    /// What a connection begins with; `None`: it did not come in time, or broke off.
    async fn soon<T>(&self, first: impl Future<Output = io::Result<T>>) -> Option<T> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            first = tokio::time::timeout(self.within, first) => first.ok()?.ok(),
        }
    }

    async fn speak<S>(self, stream: S, is_http2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = if is_http2 { &self.http2 } else { &self.http1 };
        let pace = Pace::new();
        let peer = Peer { address: self.peer, pace: Arc::clone(&pace) };
        let service = TowerToHyperService::new(self.router.layer(Extension(peer)));
        let stream = TokioIo::new(Paced { stream, pace: Arc::clone(&pace) });
        let connection = self.watcher.watch(builder.serve_connection(stream, service));
        if is_http2 {
            // Its requests are not one after the other, and whether the client is there is asked by pings.
            return ended(connection.await);
        }
        tokio::select! {
            end = connection => ended(end),
            () = pace.late(self.within) => tracing::debug!(peer = %self.peer, "a client took too long for a request's head"),
        }
    }
}

fn ended<E: std::fmt::Debug>(end: Result<(), E>) {
    if let Err(error) = end {
        tracing::debug!(?error, "a connection ended");
    }
}

/// What a connection of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a client speaks HTTP/2; `None`: it has closed the connection.
async fn is_http2(stream: &TcpStream) -> io::Result<Option<bool>> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Ok(None);
        }
        if !PREFACE.starts_with(&first[..seen]) {
            return Ok(Some(false));
        }
        if seen == PREFACE.len() {
            return Ok(Some(true));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Counts a connection while it is open.
struct Open(EndpointMetrics);

impl Open {
    fn new(metrics: &EndpointMetrics) -> Open {
        metrics.connections(1);
        Open(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections(-1);
    }
}
