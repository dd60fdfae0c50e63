//! Accepts connections over TCP and TLS. The accept loop waits for nothing but the next connection.

use super::{fabric::Fabric, front::Front, gate::Gate};
use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

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
                Ok((stream, peer)) => {
                    tokio::spawn(self.clone().serve_accepted(stream, peer, tls.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an MQTT connection; closing the oldest that has not said CONNECT");
                    self.0.half_open.shed_oldest();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve_accepted(self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        let place = self.0.half_open.enter();
        let deadline = Instant::now() + self.0.limits.connect_timeout;
        // Small packets that wait for nothing; without it, each answer would wait for an acknowledgement of TCP.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return Box::pin(self.serve_within(stream, peer, place, deadline)).await;
        };
        // Boxed: a task has its size for as long as it lives, and a handshake is large and short.
        let handshake = Box::pin(async {
            tokio::select! {
                handshake = tls.accept(stream) => Some(handshake),
                () = tokio::time::sleep_until(deadline) => None,
                () = place.taken_away() => None,
            }
        });
        let Some(handshake) = handshake.await else { return };
        match handshake {
            Ok(stream) => Box::pin(self.serve_within(stream, peer, place, deadline)).await,
            Err(error) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        }
    }
}
