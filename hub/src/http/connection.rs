//! One listener: accepts, shakes hands, serves requests, and ends connections that are silent, crowded out or told to stop.
//! Knows nothing of what is asked.

use super::{
    Http,
    door::Visit,
    limits::{
        HEADER_TIMEOUT, IDLE_TIMEOUT, MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_HTTP2_STREAMS, SHUTDOWN_GRACE,
        TLS_HANDSHAKE_TIMEOUT, UNACKNOWLEDGED_TIMEOUT,
    },
};
use axum::{Router, body::Body, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::{debug, warn};

/// How requests reach the hub.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TLS 1.3; see [`crate::tls::server_config`].
    Tls(Arc<ServerConfig>),
    /// None: on a loopback address only, for measurements and for a proxy on the same machine.
    PlainLoopback,
}

/// A pause after the system refused to accept: no descriptors are left until some connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts and serves until `stop` says true, then lets the answers under way go out.
pub(super) async fn listen(http: Arc<Http>, router: Router, listener: TcpListener, transport: Transport) -> io::Result<()> {
    if matches!(transport, Transport::PlainLoopback) && !listener.local_addr()?.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "HTTP without TLS is served on a loopback address only"));
    }
    let door = http.door.clone();
    let mut stop = http.stop.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match door.enter(peer.ip()) {
                Some(visit) => {
                    connections.spawn(welcome(http.clone(), router.clone(), stream, peer, transport.clone(), visit));
                }
                None => debug!(%peer, connections = door.count(), "connection refused: all others are being answered"),
            },
            Err(error) => {
                warn!(%error, "cannot accept connections for now");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn welcome(http: Arc<Http>, router: Router, stream: TcpStream, peer: SocketAddr, transport: Transport, visit: Visit) {
    // Answers are small and written whole.
    let _ = stream.set_nodelay(true);
    // Else a peer that lost its power would keep an event stream for a quarter of an hour.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
    let mut stop = http.stop.clone();
    let Transport::Tls(config) = transport else { return serve(router, stream, Arc::new(visit), false, stop).await };
    let handshake = timeout(TLS_HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = visit.told_to_leave() => return debug!(%peer, "closed in the handshake to make room"),
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve(router, stream, Arc::new(visit), http2, stop).await;
        }
        Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => debug!(%peer, "TLS handshake took longer than {} s", TLS_HANDSHAKE_TIMEOUT.as_secs()),
    }
}

async fn serve<S>(router: Router, stream: S, visit: Arc<Visit>, http2: bool, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::new(visit.request()));
        router.clone().oneshot(request)
    });
    let stream = TokioIo::new(stream);
    if http2 {
        let connection = http2_builder().serve_connection(stream, service);
        see_out(connection, http2::Connection::graceful_shutdown, &visit, stop).await;
    } else {
        let connection = http1_builder().serve_connection(stream, service).with_upgrades();
        see_out(connection, http1::UpgradeableConnection::graceful_shutdown, &visit, stop).await;
    }
}

/// Drives a connection to its end, and ends it when it is silent, crowded out or told to stop.
async fn see_out<C>(connection: C, shut_down: impl Fn(Pin<&mut C>), visit: &Visit, mut stop: watch::Receiver<bool>)
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut ends_at = None;
    loop {
        let wakes_at = match (ends_at, visit.idle_since()) {
            (Some(ends_at), _) => ends_at,
            (None, Some(since)) => since + IDLE_TIMEOUT,
            (None, None) => Instant::now() + IDLE_TIMEOUT,
        };
        let stopping = tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    debug!(source = %visit.address(), %error, "connection ended");
                }
                return;
            }
            () = visit.told_to_leave() => return,
            () = sleep_until(wakes_at) => false,
            _ = stop.wait_for(|stop| *stop), if ends_at.is_none() => true,
        };
        if ends_at.is_some() {
            return debug!(source = %visit.address(), "connection cut: it did not take its answers");
        }
        let idle = visit.idle_since().is_some_and(|since| since.elapsed() >= IDLE_TIMEOUT);
        if stopping || idle {
            ends_at = Some(Instant::now() + SHUTDOWN_GRACE);
            shut_down(connection.as_mut());
        }
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADER_FIELDS);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(IDLE_TIMEOUT)
        .keep_alive_timeout(SHUTDOWN_GRACE);
    builder
}
