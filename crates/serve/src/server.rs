//! Sockets: connections of bounded number, heads that arrive in time, and an end that loses no request.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;

use crate::app::App;
use crate::error::ServeError;

/// How often figures are folded into their histograms.
const UPKEEP: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;
/// For taking the connections that wait to be accepted, at the end; and for those that are cut to be gone.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How long a closed connection is listened to.
const LINGER: Duration = Duration::from_millis(500);
/// Answers a head that does not arrive in time.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Begins the end of a server: readiness says 503, then no more connections are taken, then every accepted request is answered.
#[derive(Clone)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// Begin the end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A server on its own threads.
pub struct Server {
    address: SocketAddr,
    stopper: Stopper,
    thread: std::thread::JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Listen on `address` and serve.
    ///
    /// # Errors
    /// When the address is taken, or threads cannot be started.
    pub fn start(app: Arc<App>, address: SocketAddr) -> Result<Self, ServeError> {
        let listen = |source| ServeError::Listen { address: address.to_string(), source };
        let listener = std::net::TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let start = |source| ServeError::Start { what: "the event loop", source };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("cloze-http").enable_all().build();
        let runtime = runtime.map_err(start)?;
        let (stop, stopped) = watch::channel(false);
        let run = move || {
            let result = runtime.block_on(async {
                let listener = TcpListener::from_std(listener).map_err(start)?;
                serve(app, listener, stopped).await
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        };
        let thread = std::thread::Builder::new().name("cloze-server".into()).spawn(run).map_err(start)?;
        Ok(Self { address, stopper: Stopper(Arc::new(stop)), thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Wait for the end.
    ///
    /// # Errors
    /// When connections were still open at the deadline.
    pub fn join(self) -> Result<(), ServeError> {
        let Self { stopper: _stopper, thread, .. } = self;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn serve(app: Arc<App>, listener: TcpListener, mut stopped: watch::Receiver<bool>) -> Result<(), ServeError> {
    let settings = app.settings.clone();
    let service = app.router();
    let places = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
    let (closing, _) = watch::channel(false);
    let (cutting, _) = watch::channel(false);
    let upkeep = tokio::spawn({
        let metrics = Arc::clone(&app.metrics);
        async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                metrics.upkeep();
            }
        }
    });
    let open = |stream: TcpStream, place| {
        stream.set_nodelay(true).ok(); // a socket that is gone says so when it is read
        let service = TowerToHyperService::new(service.clone());
        let stream = Patient { stream, patience: settings.body_timeout, stalled: None };
        let serve = connection(stream, service, settings.header_timeout, closing.subscribe());
        let mut cut = cutting.subscribe();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = serve => (),
                _ = cut.wait_for(|cut| *cut) => (),
            }
        });
    };
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => open(stream, place),
                // Out of file descriptors, or a client that has gone: neither is a reason to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let drained = async {
        stopped.wait_for(|stop| *stop).await.ok(); // a server whose handles are gone ends, too
        app.drain();
        tokio::time::sleep(settings.shutdown_delay).await;
    };
    tokio::select! {
        () = accept => (),
        () = drained => (),
    }
    // Who is connected already is served; clients that keep coming must not keep the server alive.
    let last = Instant::now() + LAST_CALL;
    while Instant::now() < last
        && let Ok(place) = Arc::clone(&places).try_acquire_owned()
        && let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await
    {
        open(stream, place);
    }
    drop(listener);
    closing.send_replace(true);
    let all = u32::try_from(settings.max_connections).unwrap_or(u32::MAX);
    let over = tokio::time::timeout(settings.shutdown_deadline, places.acquire_many(all)).await;
    upkeep.abort();
    let open = settings.max_connections - places.available_permits().min(settings.max_connections);
    if over.is_err() {
        // Before the batcher is waited for: what these connections have in the queue is then dropped, not computed.
        cutting.send_replace(true);
        tokio::time::timeout(LAST_CALL, places.acquire_many(all)).await.ok(); // it is a moment's work
    }
    let last = Arc::clone(&app);
    tokio::task::spawn_blocking(move || last.finish()).await.ok(); // it catches its panics
    match over {
        Ok(_) => Ok(()),
        Err(_) => Err(ServeError::Deadline { open, seconds: settings.shutdown_deadline.as_secs() }),
    }
}

/// Serve a connection until its client ends it, it idles too long, or the server ends.
async fn connection(
    stream: Patient,
    service: TowerToHyperService<axum::Router>,
    header_timeout: Duration,
    mut closing: watch::Receiver<bool>,
) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Counted { service, requests: Arc::clone(&requests) };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), counted);
    let mut ending = false;
    let result = loop {
        let served = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
        if ending {
            break served.await;
        }
        tokio::select! {
            result = served => break result,
            changed = closing.changed() => {
                ending = true;
                if changed.is_ok() {
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        }
    };
    let mut stream = connection.into_parts().io.into_inner().stream;
    if result.is_err_and(|e| e.is_timeout()) && requests.load(Ordering::Relaxed) == 0 {
        stream.write_all(TOO_SLOW).await.ok(); // the client may have gone
    }
    stream.shutdown().await.ok(); // likewise
    tokio::time::timeout(LINGER, drop_rest(&mut stream)).await.ok();
}

/// Read what the client still sends of a refused body and drop it: to close on unread bytes resets the connection, and the answer is lost.
async fn drop_rest(stream: &mut TcpStream) {
    let mut rest = [0; 16 << 10];
    while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

/// A socket whose client must take what is written to it: an answer of which nothing leaves for so long is an error, and its connection
/// ends.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        std::task::ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Counts requests, so that an idle connection is told from one whose first head never came.
struct Counted {
    service: TowerToHyperService<axum::Router>,
    requests: Arc<AtomicUsize>,
}

impl hyper::service::Service<hyper::Request<hyper::body::Incoming>> for Counted {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: hyper::Request<hyper::body::Incoming>) -> Self::Future {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Box::pin(self.service.call(request))
    }
}
