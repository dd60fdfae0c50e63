//! Accepts connections over TCP and TLS. The accept loop waits for nothing but the next connection.

use super::{fabric::Fabric, front::Front, gate::Gate, half_open::Place};
use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long to wait when the system gives no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

impl<G: Gate, F: Fabric> Front<G, F> {
    /// Accepts MQTT over TCP until `stop`. Open connections stay: [`Front::stop`] ends them.
    pub async fn serve_tcp(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        self.accept(listener, None, stop).await;
    }

    /// Accepts MQTT over TLS until `stop`. Each handshake runs in its own task and counts against the time for CONNECT.
    pub async fn serve_tls(&self, listener: TcpListener, tls: TlsAcceptor, stop: impl Future<Output = ()>) {
        self.accept(listener, Some(tls), stop).await;
    }

    async fn accept(&self, listener: TcpListener, tls: Option<TlsAcceptor>, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match &tls {
                    None => drop(tokio::spawn(self.clone().serve_plain(stream, peer))),
                    Some(tls) => drop(tokio::spawn(self.clone().serve_secured(stream, peer, tls.clone()))),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an MQTT connection; closing one that has not said CONNECT");
                    self.0.half_open.shed();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve_plain(self, stream: TcpStream, peer: SocketAddr) {
        let (place, deadline) = self.enter(&stream, peer);
        self.serve_within(stream, peer, place, deadline).await;
    }

    async fn serve_secured(self, stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor) {
        let (place, deadline) = self.enter(&stream, peer);
        // Boxed: a task has its size for as long as it lives, and a handshake is large and short.
        let secured = Box::pin(secure(stream, peer, tls, &place, deadline)).await;
        let Some(stream) = secured else { return };
        self.serve_within(stream, peer, place, deadline).await;
    }

    /// The place of a connection among those that have not said CONNECT, and until when it must.
    fn enter(&self, stream: &TcpStream, peer: SocketAddr) -> (Place, Instant) {
        // Small packets that wait for nothing; without it, each answer would wait for an acknowledgement of TCP.
        let _ = stream.set_nodelay(true);
        (self.0.half_open.enter(peer.ip()), Instant::now() + self.0.limits.connect_timeout)
    }
}

async fn secure(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    place: &Place,
    deadline: Instant,
) -> Option<Box<TlsStream<TcpStream>>> {
    let handshake = tokio::select! {
        handshake = tls.accept(stream) => handshake,
        () = tokio::time::sleep_until(deadline) => return None,
        () = place.taken_away() => return None,
    };
    match handshake {
        Ok(stream) => Some(Box::new(stream)),
        Err(error) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
    }
}
